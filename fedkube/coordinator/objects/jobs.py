"""The Jobs of a run: its aggregation server, and its workers."""

from __future__ import annotations

import json

from fedkube.api.v1alpha1.groups import PoolGroup, Site
from fedkube.coordinator.objects.base import (
    ORDERS_FOLDER,
    PORT,
    QUEUE_LABEL,
    RUN_FOLDER,
    SITE_LABEL,
    SPEC_ANNOTATION,
    TLS_FOLDER,
    Defaults,
    Object,
    Run,
    metadata,
)
from fedkube.coordinator.objects.contents import site_file
from fedkube.coordinator.objects.pods import Container, pod_template
from fedkube.planner.packing import AUTO, AUTO_MOST
from fedkube.wire.identity import Role

# A server that is moved to another node comes back within this time.
_GIVE_UP_S = 900
# A worker that has to go may end what it is at, if that takes no longer than this.
_LEAVE_S = 25
# A worker that cannot work is started again with growing pauses; in the end its Job gives up.
_WORKER_RESTARTS = 1000


def server_job(run: Run, defaults: Defaults) -> Object:
    """The aggregation server: at most one pod, replaced when it is lost."""
    folder = {"name": "fedkube-run", "mountPath": RUN_FOLDER}
    ordered = {"name": "fedkube-orders", "mountPath": ORDERS_FOLDER, "readOnly": True}
    command = [
        *("python3", "-m", "fedkube_server.pod", "--folder", f"{RUN_FOLDER}/{run.id}"),
        *("--orders", f"{ORDERS_FOLDER}/run.json", "--last-words", "/dev/termination-log"),
        *("--tls", TLS_FOLDER),
    ]
    probe = {"tcpSocket": {"port": PORT}, "periodSeconds": 2, "timeoutSeconds": 2}
    wanted = Container(Role.SERVER, run.child("server"), "server", command, run.spec.server.pod)
    wanted.volumes += [
        {"name": "fedkube-run", "persistentVolumeClaim": {"claimName": run.child("run")}},
        {"name": "fedkube-orders", "configMap": {"name": run.child("orders")}},
    ]
    wanted.mounts += [folder, ordered]
    pod = pod_template(run, defaults, wanted)
    container = pod["spec"]["containers"][0]
    container["ports"] = [{"name": "exchange", "containerPort": PORT, "protocol": "TCP"}]
    container["readinessProbe"] = probe
    pod["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(run, "server", "server") | {"annotations": _begun(run)},
        "spec": {"backoffLimit": run.spec.backoff_limit, "template": pod},
    }


def _begun(run: Run) -> dict[str, str]:
    return {SPEC_ANNOTATION: run.spec.model_dump_json(by_alias=True, exclude_defaults=True)}


def worker_jobs(run: Run, defaults: Defaults) -> list[Object]:
    """Whoever serves the run's clients: one Job for a pool, or one for each site."""
    pool = run.spec.pool
    if pool is not None:
        return [_pool_job(run, defaults, pool)]
    return [_site_job(run, defaults, site) for site in run.spec.sites]


def queued(job: Object, queue: str) -> Object:
    """The Job as Kueue takes it: it begins when that lets it, with as many pods as that allows.

    The server is no part of it: it holds no accelerator, and outlives what Kueue takes away.
    """
    metadata = job["metadata"] | {
        "labels": job["metadata"]["labels"] | {QUEUE_LABEL: queue},
        "annotations": {"kueue.x-k8s.io/job-min-parallelism": "1"},
    }
    return job | {"metadata": metadata, "spec": job["spec"] | {"suspend": True}}


def _pool_job(run: Run, defaults: Defaults, pool: PoolGroup) -> Object:
    """As many pods as ``parallelism`` says, until one was sent home."""
    command = _worker_command(run, "pool.$(POD_NAME)", pool.threads)
    if pool.clients_per_accelerator == AUTO:
        most = min(AUTO_MOST, pool.clients)
        command[2:3] = ["fedkube_client.crew", "--workers", str(most), "--as-fit"]
    elif pool.clients_per_accelerator > 1:
        command[2:3] = ["fedkube_client.crew", "--workers", str(pool.clients_per_accelerator)]
    container = Container(Role.WORKER, run.child("workers"), "worker", command, pool.pod)
    return _worker_job(run, run.child("workers"), pod_template(run, defaults, container))


def _site_job(run: Run, defaults: Defaults, site: Site) -> Object:
    """One pod, beside its data; nobody else is shown either the data or the certificate."""
    command = _worker_command(run, site.name, site.threads)
    if site.node_config:
        command += ["--node-config", json.dumps(site.node_config)]
    job_name = run.site_job(site)
    container = Container(Role.WORKER, job_name, site_file(site), command, site.pod)
    if site.data is not None:
        claim = {"claimName": site.data.claim, "readOnly": site.data.read_only}
        container.volumes.append({"name": "fedkube-data", "persistentVolumeClaim": claim})
        container.mounts.append(
            {
                "name": "fedkube-data",
                "mountPath": site.data.mount_path,
                "readOnly": site.data.read_only,
            }
        )
    pod = pod_template(run, defaults, container)
    job = _worker_job(run, job_name, pod)
    for described in (job["metadata"], pod["metadata"]):
        described["labels"][SITE_LABEL] = site.name
    return job


def _worker_command(run: Run, name: str, threads: int) -> list[str]:
    return [
        *("python3", "-m", "fedkube_client", "--server", f"{run.server_host}:{PORT}"),
        *("--name", name, "--tls", TLS_FOLDER, "--app", run.app_folder),
        *("--threads", str(threads), "--give-up-s", str(_GIVE_UP_S)),
        *("--leave-s", str(_LEAVE_S)),
    ]


def _worker_job(run: Run, name: str, pod: Object) -> Object:
    pod["spec"]["restartPolicy"] = "OnFailure"
    pod["spec"]["terminationGracePeriodSeconds"] = _LEAVE_S + 5
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(run, "workers", "worker") | {"name": name},
        "spec": {
            "parallelism": run.parallelism[name],  # whoever creates it may know better
            "backoffLimit": _WORKER_RESTARTS,
            "template": pod,
        },
    }
