"""What a run's pods read and write: certificates, orders, the disk of the run folder."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from fedkube.api.v1alpha1 import Pool, RunSpec, Server
from fedkube.api.v1alpha1.groups import PoolGroup, Site
from fedkube.coordinator.objects.base import PORT, Object, Run, metadata
from fedkube.core.run_states import RunState
from fedkube.pki.authority import Authority
from fedkube.store.run_folder import RunRecord
from fedkube.wire.identity import Identity, Role

# How long a run's certificates hold; a run that goes on for longer ends.
LIFETIME = timedelta(days=90)


def certificates(run: Run, now: datetime) -> Object:
    """The certificates of everyone in the run, by one authority whose key is then forgotten.

    One Secret, so that they are there together or not at all; each pod is shown its own alone.
    """
    authority = Authority(f"fedkube run {run.id}", now, LIFETIME)
    host = run.server_host
    hosts = (run.child("server"), host, f"{host}.cluster.local", *run.spec.server.exposure.hosts)
    data = {"ca.pem": authority.certificate()}
    for file, role, name in _holders(run):
        serves = role is Role.SERVER
        certificate, key = authority.issue(
            f"{role} {name}",
            Identity(run.id, role, name).uri(),
            hosts if serves else (),
            server=serves,
        )
        data |= {f"{file}.pem": certificate, f"{file}-key.pem": key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(run, "tls", "tls"),
        "type": "Opaque",
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }


def _holders(run: Run) -> Iterator[tuple[str, Role, str]]:
    """Everyone who gets a certificate: the files' name, the role, and the name in it."""
    yield "server", Role.SERVER, "run"
    yield "operator", Role.OPERATOR, "run"
    if run.spec.pool is not None:
        yield "worker", Role.WORKER, "pool"
    for site in run.spec.sites:
        yield site_file(site), Role.WORKER, site.name


def site_file(site: Site) -> str:
    """What a site's certificate is called in the run's Secret."""
    return f"site-{site.name}"


def orders(run: Run) -> Object:
    """What the server is to do: the record of a run that has not begun."""
    limits = run.spec.pool or PoolGroup(clients=run.spec.clients)
    pods = sum(run.parallelism.values())
    record = RunRecord(
        run_id=run.id,
        state=RunState.PENDING,
        app="",
        spec=RunSpec(
            app=run.app_folder,
            run_config=run.spec.run_config,
            pool=Pool(
                clients=limits.clients,
                client_timeout_s=limits.client_timeout_s,
                max_attempts=limits.max_attempts,
                threads=limits.threads,
            ),
            sites=[site.name for site in run.spec.sites],
            cohort=run.spec.cohort,
            compression=run.spec.compression,
            server=Server(
                listen=f"0.0.0.0:{PORT}",
                journal=run.spec.server.journal,
                journal_bytes=run.spec.server.journal_bytes,
                keep_journal=run.spec.server.keep_journal,
            ),
            checkpoints=run.spec.checkpoints,
            seed=run.seed,
        ),
        versions={},
        plan=f"{pods} worker pods at most",
        workers=pods,
        banned=run.spec.banned,
        created_at=datetime.fromtimestamp(0, UTC),
    )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(run, "orders", "server"),
        "data": {"run.json": record.model_dump_json(by_alias=True)},
    }


def claim(run: Run) -> Object:
    """The disk of the run folder."""
    storage = run.spec.server.storage
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(run, "run", "server", owned=not storage.keep),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": storage.size}},
            **({"storageClassName": storage.class_name} if storage.class_name is not None else {}),
        },
    }
