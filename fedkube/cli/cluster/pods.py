"""A run's pods, as far as a person asks about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedkube.core.errors import Usage

if TYPE_CHECKING:
    from fedkube.cli.cluster.api import Api

Object = dict[str, Any]

RUN_LABEL = "fedkube.io/run"
ROLE_LABEL = "fedkube.io/role"
SITE_LABEL = "fedkube.io/site"
SERVER, READER = "server", "reader"


def of(cluster: Api, space: str, run: str) -> list[Object]:
    """The run's pods, the oldest first; those that only read its disk are not its own."""
    found = cluster.list("Pod", space, f"{RUN_LABEL}={run}")
    found = [pod for pod in found if role(pod) != READER]
    return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], _name(pod)))


def role(pod: Object) -> str:
    """What a pod is in its run: server, worker or reader."""
    return str((pod["metadata"].get("labels") or {}).get(ROLE_LABEL, ""))


def choose(found: list[Object], run: str, worker: bool, name: str | None) -> Object:
    """The pod that was asked for: by its name, or the newest of a role."""
    if name is not None:
        for pod in found:
            if _name(pod) == name:
                return pod
        known = ", ".join(_name(pod) for pod in found) or "none"
        raise Usage(f"run {run!r} has no pod {name!r}", hint=f"its pods are: {known}")
    wanted = [pod for pod in found if (role(pod) != SERVER) is worker]
    if not wanted:
        what = "worker" if worker else "server"
        raise Usage(
            f"run {run!r} has no {what} pod",
            hint=f"it is not started yet, or has ended: see `fedkube get {run}`",
        )
    return wanted[-1]


def main_container(pod: Object) -> str:
    """The container that does the pod's work; a mesh may have put others beside it."""
    names = [str(each["name"]) for each in pod["spec"]["containers"]]
    return next((name for name in names if name == role(pod)), names[0])


def container_with_words(pod: Object) -> str:
    """The container whose log says most: one that prepares the pod, if that is what failed."""
    for each in (pod.get("status") or {}).get("initContainerStatuses") or []:
        for state in (each.get("state") or {}, each.get("lastState") or {}):
            if (state.get("terminated") or {}).get("exitCode"):
                return str(each["name"])
    return main_container(pod)


def has_begun(pod: Object) -> bool:
    """Whether the container whose log is asked for has printed, or can have."""
    name = container_with_words(pod)
    status = pod.get("status") or {}
    every = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for each in every:
        if each["name"] == name:
            state = each.get("state") or {}
            last = each.get("lastState") or {}
            return "running" in state or "terminated" in state or "terminated" in last
    return False


def has_ended(pod: Object) -> bool:
    """Whether none of its containers will run again."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def trouble(pod: Object) -> str:
    """What keeps a pod from running, in Kubernetes' words; empty if nothing is known."""
    status = pod.get("status") or {}
    for each in [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]:
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            image = each.get("image", "?")
            return f"{waiting['reason']} (image {image}): {waiting.get('message', '')}".rstrip(": ")
    for condition in status.get("conditions") or []:
        if condition.get("reason") == "Unschedulable":
            return f"no node takes it: {condition.get('message', '')}"
    if status.get("phase") == "Failed":
        return f"it failed: {status.get('reason', '')} {status.get('message', '')}".strip(": ")
    return ""


def state(pod: Object) -> str:
    """One word, as kubectl has it."""
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = pod.get("status") or {}
    for each in [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]:
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return str(waiting["reason"])
    return str(status.get("reason") or status.get("phase") or "Unknown")


def summary(pod: Object) -> Object:
    """What a script wants to know of a pod."""
    status = pod.get("status") or {}
    counts = [each.get("restartCount", 0) for each in status.get("containerStatuses") or []]
    return {
        "name": _name(pod),
        "role": role(pod),
        "site": (pod["metadata"].get("labels") or {}).get(SITE_LABEL, ""),
        "state": state(pod),
        "restarts": sum(counts),
        "node": pod["spec"].get("nodeName", ""),
        "createdAt": pod["metadata"]["creationTimestamp"],
    }


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])
