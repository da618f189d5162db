"""How many workers fit on a node, and why no more."""

from __future__ import annotations

from typing import Any

import pytest

from fedkube.planner.supply import Node, Shape, Taint, bears, room

GPU = "nvidia.com/gpu"
ONE = Shape({GPU: 1, "cpu": 500})


def node(name: str = "a", gpus: int = 4, **more: Any) -> Node:
    return Node(name, {GPU: gpus, "cpu": 8000, "pods": 110}, **more)


def test_the_scarcest_resource_counts() -> None:
    assert room([node("a", 4), node("b", 1), node("c", 0)], ONE).by_node == {"a": 4, "b": 1}
    assert room([node(gpus=100)], Shape({GPU: 1, "cpu": 3000})).workers == 2
    assert room([Node("a", {GPU: 8, "pods": 3})], Shape({GPU: 1})).workers == 3


@pytest.mark.parametrize(
    ("found", "shape", "why"),
    [
        (node(usable=False), ONE, "1 node cordoned or not ready"),
        (node(taints=(Taint("gpu", "", "NoSchedule"),)), ONE, "1 node with the taint gpu"),
        (node(), Shape({GPU: 1}, {"zone": "b"}), "1 node without the label zone=b"),
        (Node("a", {"cpu": 1000}), ONE, "1 node without nvidia.com/gpu"),
        (node(gpus=2), ONE, "1 node with no more nvidia.com/gpu free"),
        (node(gpus=20), Shape({GPU: 1, "cpu": 3000}), "1 node with no more cpu free"),
    ],
)
def test_why_it_is_no_more(found: Node, shape: Shape, why: str) -> None:
    assert room([found], shape).why == why


def test_reasons_are_counted() -> None:
    nodes = [node("a", 1), node("b", 1), node("c", usable=False)]
    said = room(nodes, ONE).why
    assert said == "1 node cordoned or not ready, 2 nodes with no more nvidia.com/gpu free"
    assert room([], ONE).why == "there is no node"


@pytest.mark.parametrize(
    ("toleration", "holds"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "value": "yes", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations_are_kubernetes(toleration: dict[str, str], holds: bool) -> None:
    assert bears(toleration, Taint("gpu", "yes", "NoSchedule")) is holds


def test_a_taint_that_is_but_a_wish_keeps_nobody_away() -> None:
    assert room([node(taints=(Taint("gpu", "", "PreferNoSchedule"),))], ONE).workers == 4


@pytest.mark.parametrize(
    ("operator", "values", "holds"),
    [
        ("In", ["8", "9"], True),
        ("In", ["9"], False),
        ("NotIn", ["9"], True),
        ("NotIn", ["8"], False),
        ("Exists", None, True),
        ("DoesNotExist", None, False),
        ("Gt", ["7"], True),
        ("Gt", ["8"], False),
        ("Lt", ["9"], True),
        ("Lt", ["x"], False),
        ("Nonsense", ["8"], False),
    ],
)
def test_the_required_affinity_counts(operator: str, values: list[str] | None, holds: bool) -> None:
    term = {"matchExpressions": [{"key": "size", "operator": operator, "values": values}]}
    shape = Shape({GPU: 1}, terms=(term,))
    assert bool(room([node(labels={"size": "8"})], shape).workers) is holds
    either = Shape(
        {GPU: 1}, terms=(term, {"matchExpressions": [{"key": "size", "operator": "Exists"}]})
    )
    assert room([node(labels={"size": "8"})], either).workers, "one of the terms is enough"


def test_of_a_label_that_is_not_there_nothing_holds_but_its_absence() -> None:
    for operator, holds in (("NotIn", True), ("DoesNotExist", True), ("Gt", False), ("In", False)):
        term = {"matchExpressions": [{"key": "none", "operator": operator, "values": ["1"]}]}
        assert bool(room([node()], Shape({GPU: 1}, terms=(term,))).workers) is holds
    assert not room([node()], Shape({GPU: 1}, terms=({},))).workers, "an empty term holds nowhere"


def test_an_affinity_may_name_the_node() -> None:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}
    found = room([node("a"), node("b")], Shape({GPU: 1}, terms=(term,)))
    assert list(found.by_node) == ["b"]
    assert "1 node outside of the affinity" in found.why
