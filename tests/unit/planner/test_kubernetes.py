"""How Kubernetes' objects are read."""

from __future__ import annotations

from typing import Any

import pytest

from fedkube.planner.kubernetes import (
    is_over,
    node_of,
    pod_requests,
    quantity,
    quota_left,
    shape_of,
)

GPU = "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("words", "resource", "value"),
    [
        ("500m", "cpu", 500),
        ("2", "cpu", 2000),
        (1, "cpu", 1000),
        (0.5, "cpu", 500),
        ("1.5Gi", "memory", 3 * 2**29),
        ("128974848", "memory", 128974848),
        ("129e6", "memory", 129_000_000),
        ("129M", "memory", 129_000_000),
        ("123Mi", "memory", 123 * 2**20),
        ("1E", "memory", 10**18),
        ("1e3", "memory", 1000),
        ("100n", "cpu", 1),
        ("8", GPU, 8),
        (".5", "memory", 1),
        ("-1", GPU, -1),
    ],
)
def test_quantities(words: Any, resource: str, value: int) -> None:
    assert quantity(words, resource) == value


@pytest.mark.parametrize("words", ["", "x", "1 Gi", "1gi", "--1", "1e", "Ki", "0x10"])
def test_what_is_no_quantity(words: str) -> None:
    with pytest.raises(ValueError, match="is no quantity of memory"):
        quantity(words, "memory")


def container(restart: str | None = None, limits: Any = None, **requests: str) -> dict[str, Any]:
    found: dict[str, Any] = {"resources": {"requests": requests, "limits": limits or {}}}
    return found | ({"restartPolicy": restart} if restart else {})


def test_containers_are_added_and_init_containers_are_not() -> None:
    spec = {
        "containers": [container(cpu="1"), container(cpu="500m", memory="1Gi")],
        "initContainers": [container(cpu="2"), container(memory="3Gi")],
    }
    assert pod_requests({"spec": spec}) == {"cpu": 2000, "memory": 3 * 2**30, "pods": 1}


def test_what_goes_on_beside_is_added_too() -> None:
    spec = {
        "containers": [container(cpu="1")],
        "initContainers": [container("Always", cpu="500m"), container(cpu="1200m")],
        "overhead": {"cpu": "100m"},
    }
    assert pod_requests({"spec": spec})["cpu"] == 1700 + 100


def test_a_limit_alone_is_a_request() -> None:
    limits = {GPU: 2, "cpu": "4"}
    spec = {"containers": [container(limits=limits, cpu="1")]}
    assert pod_requests({"spec": spec}) == {GPU: 2, "cpu": 1000, "pods": 1}


def test_a_pod_that_says_nothing_takes_its_place_alone() -> None:
    assert pod_requests({"spec": {"containers": [{}]}}) == {"pods": 1}


def test_a_node() -> None:
    body = {
        "metadata": {"name": "a", "labels": {"zone": "b"}},
        "spec": {"taints": [{"key": GPU, "value": "present", "effect": "NoSchedule"}]},
        "status": {
            "allocatable": {"cpu": "7910m", GPU: "8"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    found = node_of(body)
    assert (found.name, found.usable, found.free) == ("a", True, {"cpu": 7910, GPU: 8})
    assert [(each.key, each.value, each.effect) for each in found.taints] == [
        (GPU, "present", "NoSchedule")
    ]
    assert not node_of({**body, "spec": {"unschedulable": True}}).usable
    unknown = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
    assert not node_of({**body, "status": unknown}).usable


@pytest.mark.parametrize(
    ("phase", "over"), [("Running", False), ("Pending", False), ("Succeeded", True), ("", False)]
)
def test_pods_that_are_over(phase: str, over: bool) -> None:
    assert is_over({"status": {"phase": phase}}) is over


def test_a_shape() -> None:
    spec = {
        "containers": [container(limits={GPU: 1})],
        "nodeSelector": {"zone": "b"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"x": 1}]}
            }
        },
    }
    found = shape_of({"spec": spec})
    assert found.requests == {GPU: 1}
    assert found.node_selector == {"zone": "b"}
    assert found.tolerations == ({"operator": "Exists"},)
    assert found.terms == ({"x": 1},)


def test_what_quotas_leave() -> None:
    def quota(hard: Any, used: Any = None, **spec: Any) -> dict[str, Any]:
        return {"spec": {"hard": hard, **spec}, "status": {"hard": hard, "used": used or {}}}

    assert quota_left([]) is None
    first = quota({f"requests.{GPU}": "4", "pods": "10"}, {f"requests.{GPU}": "1", "pods": "3"})
    second = quota({"pods": "5", "limits.cpu": "1", "count/jobs.batch": "1", "cpu": "2"})
    scoped = quota({"pods": "0"}, scopes=["BestEffort"])
    assert quota_left([first, second, scoped]) == {GPU: 3, "pods": 5, "cpu": 2000}
    new = {"spec": {"hard": {"pods": "2"}}}
    assert quota_left([new]) == {"pods": 2}, "its controller has not seen it yet"


def test_what_a_limit_range_has_containers_ask_for_that_say_nothing() -> None:
    limits = [
        {"type": "Pod", "max": {"cpu": "9"}},
        {
            "type": "Container",
            "default": {"cpu": "2"},
            "defaultRequest": {"cpu": "1", "memory": "1Gi"},
        },
    ]
    ranges = [{"spec": {"limits": limits}}, {"spec": {"limits": None}}, {}]
    spec = {"containers": [container(limits={GPU: 1}), container(cpu="3")]}
    found = shape_of({"spec": spec}, ranges)
    assert found.requests == {GPU: 1, "cpu": 4000, "memory": 2 * 2**30}
    assert shape_of({"spec": spec}).requests == {GPU: 1, "cpu": 3000}
    only = [{"spec": {"limits": [{"type": "Container", "default": {"cpu": "2"}}]}}]
    assert shape_of({"spec": {"containers": [{}]}}, only).requests == {"cpu": 2000}
