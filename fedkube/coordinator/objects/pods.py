"""The pods of a run: what each gets, whoever it is. All fit Pod Security's `restricted`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedkube.api.v1alpha1.federated_run import Bundle
from fedkube.api.v1alpha1.groups import PodOverrides
from fedkube.coordinator.objects.base import (
    TLS_FOLDER,
    UNPACKED_FOLDER,
    Defaults,
    Object,
    Run,
    labels,
    metadata,
)
from fedkube.core.accelerators import DEVICES_ANNOTATION, class_in
from fedkube.wire.identity import Role

_BUNDLE = "/etc/fedkube/bundle"
_USER = 10001
_CLAIM = {"name": "fedkube-devices"}
DEVICES_GROUP = "resource.k8s.io"
_TMP = {"name": "fedkube-tmp", "mountPath": "/tmp"}  # noqa: S108 - a volume of the pod's own


@dataclass(slots=True)
class Container:
    """What a pod's container does. ``certificate``: its files' name in the run's Secret.

    ``job``: whose pod it is.
    """

    role: Role
    job: str
    certificate: str
    command: list[str]
    wanted: PodOverrides
    volumes: list[Object] = field(default_factory=list)
    mounts: list[Object] = field(default_factory=list)


def pod_template(run: Run, defaults: Defaults, container: Container) -> Object:
    """A pod of the run: metadata and spec."""
    wanted = container.wanted
    volumes = [
        {"name": "fedkube-tls", "secret": _certificate(run, container.certificate)},
        {"name": "fedkube-tmp", "emptyDir": {}},
        *container.volumes,
        *wanted.volumes,
    ]
    mounts = [
        {"name": "fedkube-tls", "mountPath": TLS_FOLDER, "readOnly": True},
        _TMP,
        *container.mounts,
        *wanted.volume_mounts,
    ]
    shared = _shared(run, defaults, wanted)
    inits = []
    if run.spec.app.bundle is not None:
        unpacked = {"name": "fedkube-app", "mountPath": UNPACKED_FOLDER}
        volumes.append({"name": "fedkube-app", "emptyDir": {}})
        mounts.append({**unpacked, "readOnly": True})
        init, packed = _unpacking(run.spec.app.bundle)
        init["volumeMounts"] = [unpacked, _TMP, *init["volumeMounts"]]
        inits.append({**shared, **init, "resources": _resources(wanted)})
        volumes += packed
    serving = {
        **shared,
        "name": str(container.role),
        "command": container.command,
        "volumeMounts": mounts,
        "resources": _resources(wanted) | ({"claims": [_CLAIM]} if wanted.devices else {}),
    }
    claims = [_CLAIM | {"resourceClaimTemplateName": _template_name(container.job)}]
    spec: Object = {
        "resourceClaims": claims if wanted.devices else [],
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
        "containers": [serving],
        "volumes": volumes,
        "imagePullSecrets": [{"name": name} for name in defaults.pull_secrets],
        "nodeSelector": wanted.node_selector,
        "tolerations": [*wanted.tolerations, *_of_accelerators(wanted)],
        "affinity": wanted.affinity,
        "priorityClassName": wanted.priority_class_name,
    }
    told = {DEVICES_ANNOTATION: json.dumps(wanted.devices, sort_keys=True)}
    return {
        "metadata": {
            "labels": labels(run, str(container.role)),
            **({"annotations": told} if wanted.devices else {}),
        },
        "spec": {key: value for key, value in spec.items() if value not in ([], {}, "")},
    }


def _template_name(job: str) -> str:
    """Of what a Job's pods claim their devices by."""
    return f"{job}-devices"


def device_templates(run: Run, version: str) -> list[Object]:
    """By which each pod is given a claim for its devices. ``version``: of the cluster's API."""
    return [_device_template(run, job, devices, version) for job, devices in run.devices.items()]


def _device_template(run: Run, job: str, devices: Mapping[str, int], version: str) -> Object:
    role = Role.SERVER if job == run.child("server") else Role.WORKER
    requests = []
    for number, (name, count) in enumerate(sorted(devices.items())):
        exactly = {"deviceClassName": name, "allocationMode": "ExactCount", "count": count}
        # The first beta has a request's words where the others have its kind.
        told = exactly if version == "v1beta1" else {"exactly": exactly}
        requests.append({"name": f"devices-{number}", **told})
    return {
        "apiVersion": f"{DEVICES_GROUP}/{version}",
        "kind": "ResourceClaimTemplate",
        "metadata": metadata(run, "devices", str(role)) | {"name": _template_name(job)},
        "spec": {
            # So that whoever counts devices knows whose they are.
            "metadata": {"labels": labels(run, str(role))},
            "spec": {"devices": {"requests": requests}},
        },
    }


def _certificate(run: Run, file: str) -> Object:
    items = [
        {"key": "ca.pem", "path": "ca.pem"},
        {"key": f"{file}.pem", "path": "cert.pem"},
        {"key": f"{file}-key.pem", "path": "key.pem"},
    ]
    return {"secretName": run.child("tls"), "items": items, "defaultMode": 0o440}


def _shared(run: Run, defaults: Defaults, wanted: PodOverrides) -> Object:
    """What all containers of a pod have in common."""
    environment = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "PYTHONUNBUFFERED", "value": "1"},
        # Strings hash alike in all processes of a run, so sets of them have one order.
        {"name": "PYTHONHASHSEED", "value": str(run.seed % 2**32)},
        {"name": "FLWR_TELEMETRY_ENABLED", "value": "0"},
        {"name": "HOME", "value": "/tmp"},  # noqa: S108
        *(each.model_dump(by_alias=True) for each in wanted.env),
    ]
    secrets = [{"secretRef": {"name": name}} for name in wanted.env_from_secrets]
    return {
        "image": run.spec.app.image or defaults.image,
        "imagePullPolicy": defaults.pull_policy,
        "env": environment,
        **({"envFrom": secrets} if secrets else {}),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _of_accelerators(wanted: PodOverrides) -> list[Object]:
    """Nodes with accelerators are often kept for who asks for them, by a taint of that name."""
    return [
        {"key": name, "operator": "Exists", "effect": "NoSchedule"}
        for name in wanted.accelerators
        if not class_in(name)
    ]


def _resources(wanted: PodOverrides) -> Object:
    return wanted.resources.model_dump(by_alias=True)


def _unpacking(bundle: Bundle) -> tuple[Object, list[Object]]:
    """The init container that puts the app in its place, and the volumes that it needs for it."""
    source, mounts, volumes = bundle.url, [], []
    if bundle.config_map:
        source = f"{_BUNDLE}/app.zip"
        mounts = [{"name": "fedkube-bundle", "mountPath": _BUNDLE, "readOnly": True}]
        volumes = [{"name": "fedkube-bundle", "configMap": {"name": bundle.config_map}}]
    unpack = ["python3", "-m", "fedkube.app.bundle", source, bundle.sha256, UNPACKED_FOLDER]
    return {"name": "app", "command": unpack, "volumeMounts": mounts}, volumes
