"""Pod Security's standard ``restricted``, as Kubernetes' own admission applies it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUMES = {
    "name", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
_SECCOMP = {"RuntimeDefault", "Localhost"}


def complaints(spec: dict[str, Any]) -> Iterator[str]:
    """What keeps a pod out of a namespace that enforces the standard."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} is on"
    for volume in spec.get("volumes", []):
        for kind in volume.keys() - _VOLUMES:
            yield f"volume {volume['name']} is of the kind {kind}"
    pod = spec.get("securityContext", {})
    if pod.get("sysctls"):
        yield "sysctls are set"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for what in _container(container, pod):
            yield f"container {container['name']}: {what}"


def _container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "does not drop ALL capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"adds capabilities: {capabilities['add']}"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield "runs as root"
    if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in _SECCOMP:
        yield "no seccomp profile"
    if own.get("procMount", "Default") != "Default":
        yield "procMount is set"
    for port in container.get("ports", []):
        if port.get("hostPort"):
            yield f"takes the host's port {port['hostPort']}"
