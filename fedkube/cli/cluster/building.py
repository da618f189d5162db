"""A Flower app's folder and the command line's options as objects for the cluster. Pure."""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

from fedkube.api.v1alpha1 import Cohort, ConfigValue
from fedkube.api.v1alpha1 import federated_run as api
from fedkube.api.v1alpha1.groups import DNS_NAME
from fedkube.app.project import DEFAULT_CLIENTS, Project
from fedkube.cli.cluster import manifests
from fedkube.core.errors import Usage

Object = dict[str, Any]

GPU = "nvidia.com/gpu"
_QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$")
_RESOURCE = re.compile(r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")
_DURATION = re.compile(r"^([0-9]+)(s|m|h|d)?$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}
# Room for a dash and six characters in a name of a run.
_MAX_SLUG = api.MAX_NAME - 7
# By which option a person says what stands in a field.
_OPTIONS = {
    "metadata.name": "--name",
    "spec.activeDeadlineSeconds": "--deadline",
    "spec.app.image": "--image",
    "spec.app.path": "--path",
    "spec.pool.clients": "--clients",
    "spec.pool.clientsPerAccelerator": "--clients-per-gpu",
    "spec.pool.workers": "--workers",
    "spec.seed": "--seed",
    "spec.server.journal": "--journal",
    "spec.server.storage.className": "--storage-class",
    "spec.server.storage.size": "--storage",
    "spec.ttlSecondsAfterFinished": "--ttl",
}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line says of a run; empty or None: the coordinator's default."""

    name: str = ""
    image: str = ""
    path: str = ""
    clients: int | None = None
    workers: int | None = None
    run_config: dict[str, ConfigValue] = field(default_factory=dict)
    seed: int | None = None
    cohort: Cohort = field(default_factory=Cohort)
    compression: str | None = None
    gpus: str = ""
    clients_per_gpu: int | Literal["auto"] | None = None
    cpu: str = ""
    memory: str = ""
    server_memory: str = ""
    storage: str = ""
    storage_class: str | None = None
    journal: str = ""
    journal_bytes: int | None = None
    keep_journal: bool = False
    keep: bool = False
    ttl: str = ""
    deadline: str = ""
    priority_class: str = ""


def federated_run(app: Project, wishes: Wishes, sha256: str) -> Object:
    """The object of a run. ``sha256``: of the app's bundle; empty where the image holds the app.

    Usage names the option that will not do.
    """
    name = wishes.name or f"{_slug(app.name)}-{secrets.token_hex(3)}"
    of_app: Object = {"image": wishes.image, "path": wishes.path}
    if sha256:
        of_app["bundle"] = bundle_of(name, sha256)
    storage = {
        "size": wishes.storage,
        "className": wishes.storage_class,
        "keep": wishes.keep or None,
    }
    wanted = DEFAULT_CLIENTS if app.clients is None else app.clients
    spec: Object = {
        "app": _given(of_app),
        "runConfig": wishes.run_config,
        "seed": wishes.seed,
        "pool": _given(
            {
                "clients": wanted if wishes.clients is None else wishes.clients,
                "workers": wishes.workers,
                "clientsPerAccelerator": wishes.clients_per_gpu,
                "pod": _pod(wishes, wishes.cpu, wishes.memory, _accelerators(wishes.gpus))
                | _devices(wishes.gpus),
            }
        ),
        "cohort": wishes.cohort.model_dump(by_alias=True, exclude_defaults=True),
        "compression": wishes.compression,
        "server": _given(
            {
                "storage": _given(storage),
                "journal": wishes.journal,
                "journalBytes": wishes.journal_bytes,
                "keepJournal": wishes.keep_journal or None,
                "pod": _server_pod(wishes),
            }
        ),
        "activeDeadlineSeconds": _duration("--deadline", wishes.deadline),
        "ttlSecondsAfterFinished": _duration("--ttl", wishes.ttl),
    }
    run = {
        "apiVersion": api.API_VERSION,
        "kind": api.KIND,
        "metadata": {"name": name},
        "spec": _given(spec),
    }
    if said := manifests.faults(run):
        field_, _, words = said[0].partition(": ")
        raise Usage(f"{_OPTIONS.get(field_, field_)}: {words}", details="\n".join(said[1:]))
    return run


def bundle_of(name: str, sha256: str) -> Object:
    """``spec.app.bundle`` of a run whose code is sent along."""
    # A name of its own, so that what an earlier run of this name has left is not in the way.
    return {"configMap": f"{name}-app-{secrets.token_hex(3)}", "sha256": sha256}


def bundle_object(run: Object, packed: bytes) -> Object:
    """The ConfigMap with the app's code; it goes with the run, once the run has a uid."""
    metadata = run["metadata"]
    described: Object = {
        "name": run["spec"]["app"]["bundle"]["configMap"],
        "labels": {"fedkube.io/run": metadata["name"]},
    }
    if "namespace" in metadata:
        described["namespace"] = metadata["namespace"]
    if "uid" in metadata:
        owner = {"apiVersion": api.API_VERSION, "kind": api.KIND}
        described["ownerReferences"] = [
            owner | {"name": metadata["name"], "uid": metadata["uid"]},
        ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": described,
        "binaryData": {"app.zip": base64.b64encode(packed).decode()},
    }


def _given(fields: Object) -> Object:
    """Without what was not asked for: the cluster fills it in."""
    return {name: value for name, value in fields.items() if value not in (None, "", {})}


def _slug(name: str) -> str:
    slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:_MAX_SLUG].strip("-")
    return slug or "run"


def _server_pod(wishes: Wishes) -> Object:
    return _pod(wishes, "", wishes.server_memory, {}, memory_option="--server-memory")


def _pod(
    wishes: Wishes,
    cpu: str,
    memory: str,
    accelerators: Object,
    memory_option: str = "--memory",
) -> Object:
    """What pods ask for. Memory is requested and limited alike, so that nobody else's pod is
    pushed out for it; cores are requested alone, since idle ones are anyone's.
    """
    asked = {"cpu": _quantity("--cpu", cpu), "memory": _quantity(memory_option, memory)}
    limits = {"memory": asked["memory"], **accelerators}
    resources = {"requests": _given(asked), "limits": _given(limits)}
    return _given(
        {"resources": _given(resources), "priorityClassName": wishes.priority_class},
    )


def _accelerators(words: str) -> Object:
    """Those that a node's device plugin gives out."""
    return {name: count for name, count in _gpus(words).items() if "/" in name}


def _devices(words: str) -> Object:
    """Those that the cluster gives out by claims, by their class."""
    return _given({"devices": {n: count for n, count in _gpus(words).items() if "/" not in n}})


def _gpus(words: str) -> dict[str, int]:
    if not words:
        return {}
    name, _, count = words.rpartition("=")
    name = name or GPU
    # Classes have names with dots in them, mostly; one without is more likely a slip.
    known = _RESOURCE.match(name) or ("." in name and re.match(DNS_NAME, name))
    if not count.isdigit() or int(count) < 1 or not known:
        raise Usage(
            f"--gpus is {words!r}, and takes a number of {GPU} for each worker, NAME=N or CLASS=N",
            hint="for example --gpus 1, --gpus amd.com/gpu=1, or --gpus gpu.nvidia.com=1 of a "
            "DeviceClass",
        )
    return {name: int(count)}


def _quantity(option: str, words: str) -> str:
    if words and not _QUANTITY.match(words):
        raise Usage(f"{option} is {words!r}, and takes a quantity such as 500m, 2 or 4Gi")
    return words


def _duration(option: str, words: str) -> int | None:
    if not words:
        return None
    found = _DURATION.match(words)
    if found is None:
        raise Usage(f"{option} is {words!r}, and takes a time such as 90s, 15m, 2h or 7d")
    return int(found[1]) * _SECONDS[found[2]]
