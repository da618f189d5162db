"""What a coordinator sees of a cluster's devices, against an API over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from devices import DRIVER, a_claim, a_class, a_gpu, a_slice
from fake_kubernetes import FakeKubernetes, status
from kubernetes import client, config

from fedkube.coordinator import mirror
from fedkube.coordinator.cluster import Cluster
from fedkube.coordinator.supply import Supply, View
from fedkube.core.accelerators import of_class

GPUS = of_class(DRIVER)
NODE: dict[str, Any] = {
    "kind": "Node",
    "metadata": {"name": "a"},
    "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "8"}},
}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster of one node with four devices, which tells of them in the second beta's words."""
    monkeypatch.setattr(mirror, "_PAUSE_S", 0.05)
    monkeypatch.setattr(mirror, "_FORBIDDEN_S", 0.05)
    fake = FakeKubernetes()
    fake.start()
    config.load_kube_config(str(fake.kubeconfig(tmp_path / "config")))
    fake.groups = [{"name": "resource.k8s.io", "versions": [{"version": "v1beta2"}]}]
    fake.put("nodes", NODE)
    fake.put("deviceclasses", a_class())
    fake.put("resourceslices", a_slice("a", [a_gpu(number) for number in range(4)]))
    yield fake
    fake.stop()


def seen(supply: Supply, holds: Callable[[View], bool]) -> View:
    """The view as soon as something holds of it."""
    for _ in range(400):
        view = supply.view()
        if view is not None and holds(view):
            return view
        changed.wait(0.02)
        changed.clear()
    raise AssertionError("it does not come to hold")


changed = threading.Event()


def follow() -> Supply:
    supply = Supply(Cluster(client.ApiClient()), ["ml"])
    supply.start(changed.set)
    return supply


def free(view: View) -> int:
    (node,) = view.without((), {GPUS})
    return node.free.get(GPUS, 0)


def test_devices_come_and_go_and_are_claimed(api: FakeKubernetes) -> None:
    supply = follow()
    seen(supply, lambda view: free(view) == 4)
    assert api.asked("GET", "/apis/resource.k8s.io/v1beta2/resourceslices")
    api.put("resourceclaims", a_claim("a", "gpu-1", run="r"))
    view = seen(supply, lambda view: free(view) == 3)
    (node,) = view.without({("ml", "r")}, {GPUS})
    assert node.free[GPUS] == 4, "its own"
    api.put("resourceslices", a_slice("a", [a_gpu(1)], generation=2))
    seen(supply, lambda view: free(view) == 0)
    assert not view.hides({GPUS})


def test_a_cluster_without_the_api_has_none(api: FakeKubernetes) -> None:
    api.groups = []
    api.refusals.append(
        lambda _, path: (404, status(404, "not found")) if "resource.k8s.io" in path else None
    )
    view = seen(follow(), lambda view: view.claims is not None)
    assert free(view) == 0
    assert not view.hides({GPUS})


def test_who_may_not_see_them_knows_of_none(api: FakeKubernetes) -> None:
    api.refusals.append(
        lambda _, path: (403, status(403, "forbidden")) if "resourceclaims" in path else None
    )
    view = seen(follow(), lambda _: True)
    assert view.hides({GPUS})
    assert not view.hides({"nvidia.com/gpu"})


def test_what_is_not_listed_yet_is_not_hidden(api: FakeKubernetes) -> None:
    """Whoever waits keeps what it has: there may be some."""
    away = [True]

    def refuse(_: str, path: str) -> Any:
        return (503, status(503, "away")) if away and "resourceslices" in path else None

    api.refusals.append(refuse)
    supply = follow()
    changed.wait(0.5)
    assert supply.view() is None
    away.clear()
    assert free(seen(supply, lambda view: free(view) > 0)) == 4
