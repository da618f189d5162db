"""Nodes without a kubelet, and GPUs that nobody has: for what the scheduler makes of them.

A pod that lands on such a node is never started; GPUs given to the real node let pods run.
"""

from __future__ import annotations

import time

from tests.cluster import settings
from tests.cluster.api import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Api

_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def give_gpus(api: Api, node: str, count: int) -> None:
    """Extended resources need no device plugin: a patch of the node's status advertises them."""
    key = settings.GPU.replace("/", "~1")
    patch = [
        {"op": "add", "path": f"/status/{part}/{key}", "value": str(count)}
        for part in ("capacity", "allocatable")
    ]
    api.patch(f"/api/v1/nodes/{node}/status", patch, JSON_PATCH)


def add(api: Api, name: str, gpus: int = 4, cpus: str = "8", memory: str = "32Gi") -> None:
    """A node that takes pods and never runs them.

    The taint keeps ordinary pods off it: as on hosted GPU nodes, only pods that ask for the
    resource get there (the admission plug-in ExtendedResourceToleration sees to that).
    """
    taint = {"key": settings.FAKE_LABEL, "value": "true", "effect": "NoSchedule"}
    resources = {"cpu": cpus, "memory": memory, "pods": "110"}
    if gpus:
        taint |= {"key": settings.GPU, "value": "present"}
        resources[settings.GPU] = str(gpus)
    labels = {
        settings.FAKE_LABEL: "true",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
    }
    node = {"metadata": {"name": name, "labels": labels}, "spec": {"taints": [taint]}}
    api.post("/api/v1/nodes", node)
    status = {"status": {"capacity": resources, "allocatable": resources}}
    api.patch(f"/api/v1/nodes/{name}/status", status, MERGE_PATCH)


def tend(api: Api) -> None:
    """What their kubelets would do: renew leases, say Ready, confirm deletions."""
    selector = f"{settings.FAKE_LABEL.replace('/', '%2F')}%3Dtrue"
    for node in api.get(f"/api/v1/nodes?labelSelector={selector}")["items"]:
        name = node["metadata"]["name"]
        _renew(api, name)
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Fake",
            "message": "no kubelet",
            "lastHeartbeatTime": _now(),
        }
        status = {"status": {"conditions": [ready]}}
        api.patch(f"/api/v1/nodes/{name}/status", status, STRATEGIC_PATCH)
        for pod in api.get(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{name}")["items"]:
            its = pod["metadata"]
            if its.get("deletionTimestamp"):
                path = f"/api/v1/namespaces/{its['namespace']}/pods/{its['name']}"
                api.delete(path, {"gracePeriodSeconds": 0})


def _renew(api: Api, name: str) -> None:
    spec = {
        "holderIdentity": name,
        "leaseDurationSeconds": 40,
        "renewTime": _now(".000000"),
    }
    if not api.patch(f"{_LEASES}/{name}", {"spec": spec}, MERGE_PATCH):
        api.post(_LEASES, {"metadata": {"name": name}, "spec": spec})


def _now(fraction: str = "") -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + fraction + "Z"
