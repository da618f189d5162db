"""What a run is made of on a cluster: each object as Kubernetes takes it. Pure.

All of a run's objects have names that follow from its own, so that creating one twice is the same
as creating it once, whoever does it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fedkube.api.v1alpha1 import FederatedRunSpec, Pool, RunSpec, Server
from fedkube.api.v1alpha1.federated_run import API_VERSION, KIND, PodOverrides, Resources
from fedkube.core.run_states import RunState
from fedkube.pki.authority import Authority
from fedkube.store.run_folder import RunRecord
from fedkube.wire.identity import Identity, Role

Object = dict[str, Any]

RUN_LABEL = "fedkube.io/run"
ROLE_LABEL = "fedkube.io/role"
PORT = 8470
_FOLDER = "/var/lib/fedkube/run"
_ORDERS = "/etc/fedkube/orders"
_TLS = "/etc/fedkube/tls"
_BUNDLE = "/etc/fedkube/bundle"
_UNPACKED = "/opt/fedkube/app"
_USER = 10001
# How long a run's certificates hold; a run that goes on for longer ends.
LIFETIME = timedelta(days=90)
# A server that is moved to another node comes back within this time.
_GIVE_UP_S = 900
# A worker that cannot work is started again with growing pauses; in the end its Job gives up.
_WORKER_RESTARTS = 1000
_READER_S = 900


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the coordinator was deployed with."""

    image: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    coordinator_labels: Mapping[str, str] | None = None
    coordinator_namespace: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A ``FederatedRun`` whose spec is valid."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: FederatedRunSpec

    @property
    def id(self) -> str:
        """Tells two runs of one name apart."""
        return f"{self.name}-{self.uid[:8]}"

    @property
    def seed(self) -> int:
        """The one that was asked for, or one that stays the same for this object."""
        if self.spec.seed is not None:
            return self.spec.seed
        return int(self.uid.replace("-", "")[:8], 16)

    def child(self, part: str) -> str:
        """The name of one of the run's objects."""
        return f"{self.name}-{part}"

    @property
    def server_host(self) -> str:
        """The server's name in the cluster's DNS."""
        return f"{self.child('server')}.{self.namespace}.svc"


def labels(run: Run, role: str) -> dict[str, str]:
    """By which a run's objects are found."""
    return {
        "app.kubernetes.io/name": "fedkube",
        "app.kubernetes.io/managed-by": "fedkube-coordinator",
        RUN_LABEL: run.name,
        ROLE_LABEL: role,
    }


def _metadata(run: Run, part: str, role: str, *, owned: bool = True) -> Object:
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": run.name,
        "uid": run.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": run.child(part),
        "namespace": run.namespace,
        "labels": labels(run, role),
        **({"ownerReferences": [owner]} if owned else {}),
    }


def event(body: Object, warning: bool, reason: str, message: str, now: datetime) -> Object:
    """What `kubectl describe` tells a person of a run."""
    metadata = body["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            # As everyone names them, by the object and the time.
            "name": f"{metadata['name']}.{int(now.timestamp() * 1e6):x}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message[:1000],
        "source": {"component": "fedkube-coordinator"},
        "firstTimestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "lastTimestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "count": 1,
    }


# ---------------------------------------------------------------- what pods read


def certificates(run: Run, now: datetime) -> Object:
    """The certificates of everyone in the run, by one authority whose key is then forgotten.

    One Secret, so that they are there together or not at all; each pod is shown its own alone.
    """
    authority = Authority(f"fedkube run {run.id}", now, LIFETIME)
    host = run.server_host
    hosts = (run.child("server"), host, f"{host}.cluster.local")
    data = {"ca.pem": authority.certificate()}
    for role, name in ((Role.SERVER, "run"), (Role.WORKER, "pool"), (Role.OPERATOR, "run")):
        serves = role is Role.SERVER
        identity = Identity(run.id, role, name)
        certificate, key = authority.issue(
            f"{role} {name}", identity.uri(), hosts if serves else (), server=serves
        )
        data |= {f"{role}.pem": certificate, f"{role}-key.pem": key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(run, "tls", "tls"),
        "type": "Opaque",
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }


def orders(run: Run) -> Object:
    """What the server is to do: the record of a run that has not begun."""
    pool = run.spec.pool
    record = RunRecord(
        run_id=run.id,
        state=RunState.PENDING,
        app="",
        spec=RunSpec(
            app=app_folder(run),
            run_config=run.spec.run_config,
            pool=Pool(
                clients=pool.clients,
                client_timeout_s=pool.client_timeout_s,
                max_attempts=pool.max_attempts,
                threads=pool.threads,
            ),
            server=Server(listen=f"0.0.0.0:{PORT}"),
            checkpoints=run.spec.checkpoints,
            seed=run.seed,
        ),
        versions={},
        plan=f"{pool.workers} worker pods at most",
        workers=pool.workers,
        created_at=datetime.fromtimestamp(0, UTC),
    )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(run, "orders", "server"),
        "data": {"run.json": record.model_dump_json(by_alias=True)},
    }


def app_folder(run: Run) -> str:
    """Where the app is in the run's pods."""
    return _UNPACKED if run.spec.app.bundle else run.spec.app.path


def claim(run: Run) -> Object:
    """The disk of the run folder."""
    storage = run.spec.server.storage
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(run, "run", "server", owned=not storage.keep),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": storage.size}},
            **({"storageClassName": storage.class_name} if storage.class_name is not None else {}),
        },
    }


# ---------------------------------------------------------------- the network


def service(run: Run) -> Object:
    """The server's name and address."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(run, "server", "server"),
        "spec": {
            "selector": {RUN_LABEL: run.name, ROLE_LABEL: "server"},
            "ports": [{"name": "exchange", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
        },
    }


def policies(run: Run, defaults: Defaults) -> list[Object]:
    """Who may talk to whom: workers and the coordinator to the server; everyone to DNS; no more."""
    ours = {"matchLabels": {RUN_LABEL: run.name}}
    server = {"matchLabels": {RUN_LABEL: run.name, ROLE_LABEL: "server"}}
    worker = {"matchLabels": {RUN_LABEL: run.name, ROLE_LABEL: "worker"}}
    exchange = [{"port": PORT, "protocol": "TCP"}]
    dns = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    callers: list[Object] = [{"podSelector": worker}]
    if defaults.coordinator_labels:
        callers.append(
            {
                "podSelector": {"matchLabels": dict(defaults.coordinator_labels)},
                "namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": defaults.coordinator_namespace}
                },
            }
        )

    def policy(part: str, role: str, spec: Object) -> Object:
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": _metadata(run, part, role),
            "spec": spec,
        }

    return [
        policy(
            "deny",
            "network",
            {
                "podSelector": ours,
                "policyTypes": ["Ingress", "Egress"],
                "egress": [{"ports": dns}],
            },
        ),
        policy(
            "server",
            "server",
            {
                "podSelector": server,
                "policyTypes": ["Ingress"],
                "ingress": [{"from": callers, "ports": exchange}],
            },
        ),
        policy(
            "workers",
            "worker",
            {
                "podSelector": worker,
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"podSelector": server}], "ports": exchange}],
            },
        ),
    ]


def disruption_budget(run: Run, version: str) -> Object:
    """The server is not evicted by hand; a drain waits for the run's end. ``version``: policy's."""
    return {
        "apiVersion": version,
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(run, "server", "server"),
        "spec": {
            # A Job cannot be scaled, so that Kubernetes can make nothing of maxUnavailable.
            "minAvailable": 1,
            "selector": {"matchLabels": {RUN_LABEL: run.name, ROLE_LABEL: "server"}},
        },
    }


# ---------------------------------------------------------------- pods


def server_job(run: Run, defaults: Defaults) -> Object:
    """The aggregation server: at most one pod, replaced when it is lost."""
    folder = {"name": "fedkube-run", "mountPath": _FOLDER}
    ordered = {"name": "fedkube-orders", "mountPath": _ORDERS, "readOnly": True}
    command = [
        *("python3", "-m", "fedkube_server.pod", "--folder", f"{_FOLDER}/{run.id}"),
        *("--orders", f"{_ORDERS}/run.json", "--last-words", "/dev/termination-log"),
        *("--tls", _TLS),
    ]
    probe = {"tcpSocket": {"port": PORT}, "periodSeconds": 2, "timeoutSeconds": 2}
    pod = _pod(
        run,
        defaults,
        Role.SERVER,
        command,
        run.spec.server.pod,
        [
            {"name": "fedkube-run", "persistentVolumeClaim": {"claimName": run.child("run")}},
            {"name": "fedkube-orders", "configMap": {"name": run.child("orders")}},
        ],
        [folder, ordered],
    )
    container = pod["spec"]["containers"][0]
    container["ports"] = [{"name": "exchange", "containerPort": PORT, "protocol": "TCP"}]
    container["readinessProbe"] = probe
    pod["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(run, "server", "server"),
        "spec": {"backoffLimit": run.spec.backoff_limit, "template": pod},
    }


def worker_job(run: Run, defaults: Defaults) -> Object:
    """The pool's workers: as many pods as ``parallelism`` says, until one was sent home."""
    pool = run.spec.pool
    command = [
        *("python3", "-m", "fedkube_client", "--server", f"{run.server_host}:{PORT}"),
        *("--name", "pool.$(POD_NAME)", "--tls", _TLS, "--app", app_folder(run)),
        *("--threads", str(pool.threads), "--give-up-s", str(_GIVE_UP_S)),
    ]
    pod = _pod(run, defaults, Role.WORKER, command, pool.pod, [], [])
    pod["spec"]["restartPolicy"] = "OnFailure"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(run, "workers", "worker"),
        "spec": {
            "parallelism": min(pool.workers, pool.clients),
            "backoffLimit": _WORKER_RESTARTS,
            "template": pod,
        },
    }


def reader_pod(run: Run, image: str) -> Object:
    """A pod that shows the run folder to whoever may exec into it, and ends by itself."""
    pod = _pod(
        run,
        Defaults(image),
        Role.OPERATOR,
        ["sleep", str(_READER_S)],
        run.spec.server.pod.model_copy(update={"resources": Resources()}),
        [{"name": "fedkube-run", "persistentVolumeClaim": {"claimName": run.child("run")}}],
        [{"name": "fedkube-run", "mountPath": _FOLDER, "readOnly": True}],
    )
    spec = pod["spec"]
    spec |= {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _READER_S,
        "terminationGracePeriodSeconds": 0,
    }
    # It only reads files: no certificate, and no app to unpack.
    spec.pop("initContainers", None)
    for part in (spec["volumes"], spec["containers"][0]["volumeMounts"]):
        part[:] = [each for each in part if each["name"] in ("fedkube-run", "fedkube-tmp")]
    metadata = _metadata(run, "pull", "reader")
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def reader_command(run: Run, names: Sequence[str]) -> list[str]:
    """What prints files of the run folder as a tar; those that are not there are left out."""
    script = 'cd "$0" && exec tar -cf - $(ls -d "$@" 2>/dev/null)'
    return ["sh", "-c", script, f"{_FOLDER}/{run.id}", *names]


def _pod(
    run: Run,
    defaults: Defaults,
    role: Role,
    command: list[str],
    wanted: PodOverrides,
    volumes: list[Object],
    mounts: list[Object],
) -> Object:
    image = run.spec.app.image or defaults.image
    tls_items = [
        {"key": "ca.pem", "path": "ca.pem"},
        {"key": f"{role}.pem", "path": "cert.pem"},
        {"key": f"{role}-key.pem", "path": "key.pem"},
    ]
    tls = {"secretName": run.child("tls"), "items": tls_items, "defaultMode": 0o440}
    volumes = [
        {"name": "fedkube-tls", "secret": tls},
        {"name": "fedkube-tmp", "emptyDir": {}},
        *volumes,
        *wanted.volumes,
    ]
    mounts = [
        {"name": "fedkube-tls", "mountPath": _TLS, "readOnly": True},
        {"name": "fedkube-tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
        *mounts,
        *wanted.volume_mounts,
    ]
    shared = {
        "image": image,
        "imagePullPolicy": defaults.pull_policy,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    inits = []
    if run.spec.app.bundle is not None:
        unpacked = {"name": "fedkube-app", "mountPath": _UNPACKED}
        packed = {"name": "fedkube-bundle", "mountPath": _BUNDLE, "readOnly": True}
        volumes += [
            {"name": "fedkube-app", "emptyDir": {}},
            {"name": "fedkube-bundle", "configMap": {"name": run.spec.app.bundle.config_map}},
        ]
        mounts.append({**unpacked, "readOnly": True})
        unpack = ["python3", "-m", "fedkube.app.bundle", f"{_BUNDLE}/app.zip"]
        inits.append(
            {
                **shared,
                "name": "app",
                "command": [*unpack, run.spec.app.bundle.sha256, _UNPACKED],
                "volumeMounts": [unpacked, packed],
            }
        )
    environment = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "PYTHONUNBUFFERED", "value": "1"},
        # Strings hash alike in all processes of a run, so sets of them have one order.
        {"name": "PYTHONHASHSEED", "value": str(run.seed % 2**32)},
        {"name": "FLWR_TELEMETRY_ENABLED", "value": "0"},
        {"name": "HOME", "value": "/tmp"},  # noqa: S108
        *(each.model_dump(by_alias=True) for each in wanted.env),
    ]
    container = {
        **shared,
        "name": str(role),
        "command": command,
        "env": environment,
        "volumeMounts": mounts,
        "resources": wanted.resources.model_dump(by_alias=True),
    }
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 10,
        "initContainers": inits,
        "containers": [container],
        "volumes": volumes,
        "imagePullSecrets": [{"name": name} for name in defaults.pull_secrets],
        "nodeSelector": wanted.node_selector,
        "tolerations": wanted.tolerations,
        "affinity": wanted.affinity,
        "priorityClassName": wanted.priority_class_name,
    }
    return {
        "metadata": {"labels": labels(run, str(role))},
        "spec": {key: value for key, value in spec.items() if value not in ([], {}, "")},
    }
