"""What keeps a run's pods from running, in words that say what to do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from fedkube.coordinator.objects import QUEUE_LABEL, SITE_LABEL, Object
from fedkube.coordinator.seen import Seen, condition, containers, finished, role_of, wants

# A Job's pods are made within this time, unless something forbids them.
_POD_S = 3.0
# A new disk is there within this time, unless something is wrong.
_DISK_S = 15.0
_IMAGE_TROUBLE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_CONFIG_TROUBLE = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


def trouble_of(seen: Seen, now: datetime) -> tuple[str, str] | None:
    """Reason and sentence of what keeps a run's pods from running, if something does."""
    for pod in seen.pods:
        for container in containers(pod):
            waiting = container.get("state", {}).get("waiting") or {}
            image, words = container.get("image", "?"), waiting.get("message", "")
            if waiting.get("reason") in _IMAGE_TROUBLE:
                return (
                    "ImageCannotBePulled",
                    f"image {image} cannot be pulled: correct spec.app.image, or give the cluster "
                    f"a pull secret ({words})",
                )
            if waiting.get("reason") in _CONFIG_TROUBLE:
                return "PodCannotStart", f"{_whose(pod)} cannot start: {words}"
            if waiting.get("reason") == "CrashLoopBackOff":
                return (
                    "PodCrashes",
                    f"{_whose(pod)} ends again and again: {_crash(container)}",
                )
        for each in pod.get("status", {}).get("conditions", []):
            words = each.get("message", "")
            if each.get("reason") == "Unschedulable" and not _is_usual(pod, words, now):
                return "NoNodeFits", _unschedulable(pod, words)
    for name, job in seen.workers.items():
        given_up = condition(job, "Failed")
        if given_up is not None:
            return "WorkersGaveUp", f"the Job {name} has failed: {given_up.get('message')}"
        queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL)
        if queue and job["spec"].get("suspend"):
            return (
                "WaitingForQueue",
                f"the queue {queue} has not let the workers in yet: see kubectl get workloads",
            )
    for name, words in seen.complaints.items():
        return _forbidden(name, words)
    return None


def _forbidden(job: str, words: str) -> tuple[str, str]:
    if "exceeded quota" in words:
        return (
            "QuotaUsedUp",
            f"the namespace's quota leaves no room for the pods of {job}: raise it, ask for less, "
            f"or wait for the end of others ({words})",
        )
    return "PodsForbidden", f"the cluster refuses the pods of {job}: {words}"


def _whose(pod: Object) -> str:
    site = pod["metadata"].get("labels", {}).get(SITE_LABEL)
    return f"the pod of site {site}" if site else f"a {role_of(pod)} pod"


def _is_usual(pod: Object, words: str, now: datetime) -> bool:
    """A new claim takes a moment to get its disk, and pods wait for it."""
    made = pod["metadata"].get("creationTimestamp")
    if "unbound" not in words or made is None:
        return False
    return (now - datetime.fromisoformat(made)).total_seconds() < _DISK_S


def _unschedulable(pod: Object, words: str) -> str:
    if "persistentvolumeclaim" in words.lower():
        return f"the run's disk is not there yet: see the claim and its storage class ({words})"
    asked = ", ".join(f"{count} {name}" for name, count in wants(pod).items())
    what = f", which asks for {asked}," if asked else ""
    return f"no node has room for {_whose(pod)}{what} now: {words}"


def last_crash(pods: Sequence[Object]) -> str:
    """How a server\'s pod ended, if it ended badly."""
    for pod in pods:
        if role_of(pod) == "server":
            for container in containers(pod):
                if words := _crash(container):
                    return words
    return ""


def _crash(container: Object) -> str:
    for state in (container.get("state", {}), container.get("lastState", {})):
        ended = state.get("terminated")
        if ended and ended.get("exitCode"):
            words = (ended.get("message") or "").strip()[-800:]
            return f"{ended.get('reason', 'Error')}, exit code {ended['exitCode']}: {words}"
    return ""


def without_pods(seen: Seen, now: datetime) -> dict[str, Object]:
    """Jobs that have fewer pods than they should, for longer than it takes to make them."""
    if seen.words is not None:
        return {}
    jobs = {job["metadata"]["name"]: job for job in (seen.server, *seen.workers.values()) if job}
    return {name: job for name, job in jobs.items() if _lacks_pods(job, now)}


def begins(job: Object | None) -> bool:
    """Whether a Job has not got all of its pods yet."""
    if job is None or finished(job) or job["spec"].get("suspend"):
        return False
    status = job.get("status", {})
    has = status.get("active", 0) + status.get("succeeded", 0)
    return bool(has < job["spec"].get("parallelism", 1))


def _lacks_pods(job: Object, now: datetime) -> bool:
    created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    return begins(job) and (now - created).total_seconds() >= _POD_S
