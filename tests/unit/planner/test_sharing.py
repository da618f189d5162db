"""Who gets how many workers, in words and by example; the laws are in tests/property."""

from __future__ import annotations

from typing import Any

from fedkube.planner.sharing import Demand, share
from fedkube.planner.supply import Node, Shape

GPU = "nvidia.com/gpu"
ONE = Shape({GPU: 1})


def node(name: str, gpus: int) -> Node:
    return Node(name, {GPU: gpus})


def demand(run: str, at_most: int = 100, **more: Any) -> Demand:
    return Demand(run, more.pop("shape", ONE), at_most, **more)


def test_a_run_alone_gets_all_there_is() -> None:
    nodes = [node("a", 1), node("b", 4), node("c", 8)]
    found = share(nodes, [demand("r", 64)])["r"]
    assert (found.workers, found.by_node) == (13, {"a": 1, "b": 4, "c": 8})
    assert found.why == "3 nodes with no more nvidia.com/gpu free"


def test_two_share_and_what_one_has_no_use_for_is_the_others() -> None:
    nodes = [node("a", 9)]
    assert {k: v.workers for k, v in share(nodes, [demand("x"), demand("y")]).items()} == {
        "x": 5, "y": 4,
    }  # fmt: skip
    found = share(nodes, [demand("x", 2), demand("y")])
    assert (found["x"].workers, found["x"].why, found["y"].workers) == (2, "", 7)
    assert found["y"].why == "of 9 that there is room for, the others are other runs'"
    # Near the end of a round, say.
    found = share(nodes, [demand("x", 8, use=2), demand("y")])
    assert (found["x"].workers, found["y"].workers) == (2, 7)
    assert found["x"].why == "it has use for no more now"


def test_weights_and_priorities() -> None:
    nodes = [node("a", 8)]
    found = share(nodes, [demand("x", weight=3.0), demand("y")])
    assert (found["x"].workers, found["y"].workers) == (6, 2)
    found = share(nodes, [demand("x", 6), demand("y", priority=1)])
    assert (found["x"].workers, found["y"].workers) == (0, 8)


def test_nobody_starves() -> None:
    found = share([node("a", 3)], [demand("x", weight=9.0), demand("y"), demand("z")])
    assert {each.workers for each in found.values()} == {1}


def test_where_there_is_not_one_for_each_the_oldest_is_served() -> None:
    found = share([node("a", 1)], [demand("x", turn="2026-02"), demand("y", turn="2026-01")])
    assert (found["x"].workers, found["y"].workers) == (0, 1)


def test_a_new_run_takes_places_and_moves_nobody() -> None:
    nodes = [node("a", 4), node("b", 4)]
    found = share(nodes, [demand("old", holds={"a": 4, "b": 4}), demand("new")])
    assert found["old"].workers == found["new"].workers == 4
    kept = share(nodes, [demand("old", 4, holds={"b": 4}), demand("new", 4)])
    assert (kept["old"].by_node, kept["new"].by_node) == ({"b": 4}, {"a": 4})


def test_small_workers_leave_room_for_large_ones() -> None:
    nodes = [node("a", 4), node("b", 1)]
    found = share(nodes, [demand("small", 1), demand("wide", 1, shape=Shape({GPU: 4}))])
    assert (found["small"].by_node, found["wide"].by_node) == ({"b": 1}, {"a": 1})


def test_quotas_are_kept_and_told_of() -> None:
    nodes = [node("a", 8)]
    x, y = (demand(run, limit={GPU: 3, "pods": 9}, group="ml") for run in ("x", "y"))
    found = share(nodes, [x, y, demand("z", group="other")])
    assert [found[run].workers for run in "xyz"] == [2, 1, 5]
    assert found["x"].why == "the namespace's quota leaves no more nvidia.com/gpu"
    crowded = share(nodes, [demand("x", limit={"pods": 2}, group="ml")])["x"]
    assert (crowded.workers, crowded.why) == (2, "the namespace's quota leaves no more pods")


def test_headroom_is_asked_for_beyond_what_there_is() -> None:
    found = share([node("a", 2)], [demand("x", 10, headroom=3)])["x"]
    assert (found.workers, found.by_node) == (5, {"a": 2})
    assert found.why.endswith("free; 3 more wait for new nodes")
    assert share([node("a", 9)], [demand("x", 9, headroom=3)])["x"].workers == 9
    assert share([], [demand("x", 2, headroom=3)])["x"].workers == 2


def test_without_nodes_there_is_nothing_and_it_says_so() -> None:
    found = share([], [demand("x")])["x"]
    assert (found.workers, found.why) == (0, "there is no node")
