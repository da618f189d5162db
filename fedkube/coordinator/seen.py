"""What there is of a run in the cluster, and how Kubernetes' objects are read. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedkube.api.v1alpha1 import State
from fedkube.coordinator.objects import Object
from fedkube.planner import kubernetes


@dataclass(frozen=True, slots=True)
class Progress:
    """What the aggregation server says of itself.

    ``banned``: None: it has not said who is.
    """

    round: int = 0
    rounds: int = 0
    workers: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    eta_s: float = -1.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    absent: Sequence[str] = ()
    banned: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is of a run in the cluster.

    ``workers``: the Jobs of its workers by name. ``words``: the server's last, once it has ended.
    ``complaints``: why Kubernetes makes no pods for a Job, by the Job's name.
    """

    server: Object | None = None
    workers: Mapping[str, Object] = field(default_factory=dict)
    complaints: Mapping[str, str] = field(default_factory=dict)
    pods: Sequence[Object] = ()
    words: Mapping[str, Any] | None = None
    progress: Progress = field(default_factory=Progress)


def condition(job: Object | None, kind: str) -> Object | None:
    """A Job's condition of this kind, if it holds."""
    for condition in (job or {}).get("status", {}).get("conditions", []):
        if condition["type"] == kind and condition["status"] == "True":
            return dict(condition)
    return None


def finished(job: Object) -> bool:
    """Whether a Job is over."""
    return condition(job, "Complete") is not None or condition(job, "Failed") is not None


def role_of(pod: Object) -> str:
    """What a pod is in its run: server or worker."""
    return str(pod["metadata"].get("labels", {}).get("fedkube.io/role", ""))


def phase(pod: Object) -> str:
    """Of a pod."""
    return str(pod.get("status", {}).get("phase", ""))


def is_ready(pod: Object) -> bool:
    """Whether a pod serves."""
    return any(
        each["type"] == "Ready" and each["status"] == "True"
        for each in pod.get("status", {}).get("conditions", [])
    )


def containers(pod: Object) -> list[Object]:
    """The statuses of a pod's containers, those that ran before the others included."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def wants(pod: Object) -> dict[str, str]:
    """The accelerators that a pod asks for, by resource."""
    limits = pod["spec"]["containers"][0].get("resources", {}).get("limits", {})
    asked = {**limits, **kubernetes.claimed(pod)}
    return {name: str(amount) for name, amount in asked.items() if "/" in name}


def accelerators(pod: Object) -> int:
    """How many of them."""
    return sum(int(amount) for amount in wants(pod).values() if amount.isdigit())


def owner_of(body: Object) -> str | None:
    """The uid of what an object belongs to."""
    owners = body["metadata"].get("ownerReferences") or [{}]
    uid: str | None = owners[0].get("uid")
    return uid


def last_words(pods: list[Object]) -> Mapping[str, Any] | None:
    """How the run ended, in the words of the server that ended it."""
    for pod in pods:
        if role_of(pod) != "server":
            continue
        for container in pod.get("status", {}).get("containerStatuses", []):
            ended = container.get("state", {}).get("terminated")
            if ended and ended.get("exitCode") == 0:
                try:
                    words = json.loads(ended.get("message") or "")
                    State(words["state"])
                except (ValueError, KeyError, TypeError):
                    return {"state": "Failed", "message": "the server said nothing of its end"}
                found: Mapping[str, Any] = words
                return found
    return None
