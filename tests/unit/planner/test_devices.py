"""Devices that a cluster gives out by claims: how many of a class are free on a node."""

from __future__ import annotations

import pytest
from devices import DRIVER, a_claim, a_class, a_gpu, a_slice

from fedkube.core.accelerators import class_in, of_class
from fedkube.planner import devices, selectors
from fedkube.planner.devices import Claimed, Claims
from fedkube.planner.supply import Node, Shape, room

GPUS = of_class(DRIVER)


def free(slices, classes=None, claims=(), runs=(), resource=GPUS):
    """By node, of what is described; ``claims``: with the run that each is of, or None."""
    found = Claims(
        [each for body in slices if (each := devices.slice_of(body)) is not None],
        [devices.class_of(body) for body in classes or [a_class()]],
        [Claimed(devices.devices_of(body), run) for body, run in claims],
    )
    nodes = found.on([Node("a", {"cpu": 8000}), Node("b", {})], {resource, "cpu"}, runs)
    assert nodes[0].free["cpu"] == 8000
    return [node.free.get(resource, 0) for node in nodes]


def test_a_class_and_its_resource():
    assert GPUS == "gpu.nvidia.com.deviceclass.resource.k8s.io/devices", "as quotas call it"
    assert (class_in(GPUS), class_in("nvidia.com/gpu")) == (DRIVER, "")


@pytest.mark.parametrize("first_beta", [False, True])
def test_each_node_has_its_own(first_beta):
    gpus = [a_gpu(number, first_beta=first_beta) for number in range(4)]
    assert free([a_slice("a", gpus), a_slice("b", gpus[:1])]) == [4, 1]


def test_a_pool_may_have_several_slices_and_only_the_newest_count():
    old = a_slice("a", [a_gpu(number) for number in range(8)], generation=1)
    new = [a_slice("a", [a_gpu(n) for n in part], generation=2) for part in ((0, 1), (2,))]
    assert free([old, *new]) == [3, 0]


def test_a_pools_generation_is_that_of_all_its_nodes():
    old, new = a_slice("a", [a_gpu(0)], generation=1), a_slice("b", [a_gpu(1)], generation=2)
    for each in (old, new):
        each["spec"]["pool"]["name"] = "everywhere"
    assert free([old, new]) == [0, 1]


def test_what_is_claimed_is_not_free():
    there = [a_slice("a", [a_gpu(number) for number in range(4)])]
    claims = [(a_claim("a", "gpu-0", "gpu-1"), None), (a_claim("a"), None)]
    assert free(there, claims=claims) == [2, 0]
    mine = (a_claim("a", "gpu-2"), ("ml", "r"))
    assert free(there, claims=[*claims, mine]) == [1, 0]
    assert free(there, claims=[*claims, mine], runs={("ml", "r")}) == [2, 0]
    assert free(there, claims=[(a_claim("a", "gpu-0", adminAccess=True), None)]) == [4, 0]


def test_devices_that_are_kept_and_those_of_no_one_node_are_not_counted():
    tainted = a_gpu(0, taints=[{"key": "broken", "effect": "NoExecute"}])
    wished = a_gpu(1, taints=[{"key": "old", "effect": "None"}])
    shared = a_gpu(2, allowMultipleAllocations=True)
    anywhere = a_slice("a", [a_gpu(3)], allNodes=True)
    del anywhere["spec"]["nodeName"]
    assert free([a_slice("a", [tainted, wished, shared]), anywhere]) == [1, 0]


def test_a_gpu_is_free_as_a_whole_or_in_parts():
    """Eight eighths, two halves, or the whole: they share the memory of one."""

    def part(name: str, eighths: int):
        counters = {"memory": {"value": f"{10 * eighths}Gi"}}
        uses = [{"counterSet": "gpu-0", "counters": counters}]
        attributes = {"type": {"string": name.partition("-")[0]}}
        return {"name": name, "attributes": attributes, "consumesCounters": uses}

    parts = [part("whole", 8), *(part(f"half-{n}", 4) for n in range(2)),
             *(part(f"eighth-{n}", 1) for n in range(8))]  # fmt: skip
    counters = [{"name": "gpu-0", "counters": {"memory": {"value": "80Gi"}}}]
    there = [a_slice("a", parts), a_slice("a", [], sharedCounters=counters)]
    classes = [
        a_class(kind, f'device.attributes["{DRIVER}"].type == "{kind}"')
        for kind in ("whole", "half", "eighth")
    ]

    def of_each(*claims):
        taken = [(claim, None) for claim in claims]
        return [
            free(there, classes, taken, resource=of_class(kind))[0]
            for kind in ("whole", "half", "eighth")
        ]

    assert of_each() == [1, 2, 8]
    assert of_each(a_claim("a", "eighth-3")) == [0, 1, 7]
    assert of_each(a_claim("a", "half-0")) == [0, 1, 4]
    assert of_each(a_claim("a", "whole")) == [0, 0, 0]


def test_how_many_workers_fit():
    slices = [devices.slice_of(a_slice("a", [a_gpu(number) for number in range(5)]))]
    claims = Claims(slices, [devices.class_of(a_class())])
    nodes = claims.on([Node("a", {"cpu": 8000}), Node("b", {})], {GPUS})
    found = room(nodes, Shape({GPUS: 2}))
    assert found.by_node == {"a": 2}
    assert found.why == (
        "1 node with no more devices of class gpu.nvidia.com free, "
        "1 node without devices of class gpu.nvidia.com"
    )


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        (f'device.driver == "{DRIVER}"', True),
        ('device.driver == "gpu.amd.com"', False),
        (f'device.attributes["{DRIVER}"].type == "gpu"', True),
        (f'device.attributes["{DRIVER}"].type in ["mig", "vfio"]', False),
        (f'device.attributes["{DRIVER}"].index < 1 && device.driver.startsWith("gpu")', True),
        ('device.attributes["example.com"].rack == "r1"', True),
        (f'device.attributes["{DRIVER}"].productName.matches("A.00")', False),
        ('device.attributes["example.org"].rack == "r1"', False),
        ('"rack" in device.attributes["example.org"]', False),
        ('!has(device.attributes["example.org"].rack)', True),
        (f'device.capacity["{DRIVER}"].memory.compareTo(quantity("40Gi")) >= 0', True),
        (f'device.capacity["{DRIVER}"].memory.isGreaterThan(quantity("80Gi"))', False),
        (f'device.capacity["{DRIVER}"].memory.isLessThan(quantity("0.1Ti"))', True),
        # What is not there yet in the library, and what is no expression at all.
        (f'semver(device.attributes["{DRIVER}"].type).major() > 1', None),
        ("device.bindsToNode", None),
        ("((", None),
        ("", None),
        ("(" * 200 + "true" + ")" * 200, None),
        ("!device.allowMultipleAllocations", True),
        (f'device.attributes["{DRIVER}"].exists(name, name == "index")', True),
        (f'size(device.attributes["{DRIVER}"]) == 2', True),
    ],
)
def test_which_devices_an_expression_selects(expression, holds):
    found = devices.slice_of(a_slice("a", [a_gpu(0)]))
    assert selectors.holds(expression, found.devices[0].facts) is holds


def test_all_expressions_of_a_class_have_to_hold():
    there = [a_slice("a", [a_gpu(0), a_gpu(1, gib=40)])]
    large = f'device.capacity["{DRIVER}"].memory.isGreaterThan(quantity("40Gi"))'
    assert free(there, [a_class(DRIVER, "true", large)]) == [1, 0]


def test_a_class_that_nobody_here_understands_is_told_of():
    def obscure(*expressions, devices_there=1):
        parts = devices.slice_of(a_slice("a", [a_gpu(n) for n in range(devices_there)]))
        claims = Claims([parts], [devices.class_of(a_class(DRIVER, *expressions))])
        assert claims.obscure({"cpu", of_class("other")}) == [], "nobody asks for it"
        return claims.obscure({"cpu", GPUS})

    assert obscure("semver(device.driver)") == [DRIVER]
    assert obscure("false", "semver(device.driver)") == [], "none, whatever that means"
    assert obscure("true") == []


def test_without_the_library_nothing_is_understood(monkeypatch):
    import sys

    facts = devices.slice_of(a_slice("a", [a_gpu(0)])).devices[0].facts
    cached = (selectors.holds, selectors._holds, selectors._program)
    monkeypatch.setitem(sys.modules, "celpy", None)
    for each in cached:
        each.cache_clear()
    assert selectors.holds("true", facts) is None
    for each in cached:
        each.cache_clear()


def test_devices_that_differ_by_what_nobody_asks_for_are_looked_at_once():
    there = [a_slice("a", [a_gpu(number) for number in range(200)])]
    selectors._holds.cache_clear()
    assert free(there, [a_class(DRIVER, f'device.attributes["{DRIVER}"].type == "gpu"')]) == [
        200,
        0,
    ]
    assert selectors._holds.cache_info().misses == 1
