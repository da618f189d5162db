"""Laws of what runs get of a cluster that they share."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fedkube.planner.sharing import Demand, Share, share
from fedkube.planner.supply import PODS, Node, Shape, room

GPU = "nvidia.com/gpu"
NODES = st.lists(
    st.builds(
        lambda gpus, cpu, pods, label, usable: (gpus, cpu, pods, label, usable),
        st.integers(0, 8),
        st.integers(0, 16_000),
        st.integers(0, 12),
        st.sampled_from(["a", "b"]),
        st.booleans(),
    ),
    max_size=4,
).map(
    lambda rows: [
        Node(f"n{i}", {GPU: g, "cpu": c, PODS: p}, {"zone": z}, usable=u)
        for i, (g, c, p, z, u) in enumerate(rows)
    ]
)
SHAPES = st.builds(
    lambda gpus, cpu, zone: Shape({GPU: gpus, "cpu": cpu}, {"zone": zone} if zone else {}),
    st.integers(1, 3),
    st.integers(0, 4000),
    st.sampled_from(["", "a"]),
)


@st.composite
def demands(draw: st.DrawFn) -> list[Demand[str]]:
    limits = {space: draw(st.none() | st.integers(0, 10)) for space in ("x", "y")}
    found = []
    for number in range(draw(st.integers(1, 4))):
        space = draw(st.sampled_from(["x", "y"]))
        limit = limits[space]
        found.append(
            Demand(
                run=f"r{number}",
                shape=draw(SHAPES),
                at_most=draw(st.integers(0, 12)),
                weight=draw(st.sampled_from([0.5, 1.0, 3.0])),
                priority=draw(st.integers(0, 1)),
                holds=draw(
                    st.dictionaries(st.sampled_from(["n0", "n1", "gone"]), st.integers(1, 3))
                ),
                limit=None if limit is None else {GPU: limit},
                group=space,
                use=draw(st.none() | st.integers(0, 12)),
            )
        )
    return found


def taken(nodes: list[Node], wanted: list[Demand[str]], shares: dict[object, Share]) -> list[Node]:
    """What the shares leave of the nodes."""
    left = {node.name: Counter(node.free) for node in nodes}
    for each in wanted:
        for name, count in shares[each.run].by_node.items():
            left[name].subtract({k: n * count for k, n in each.shape.requests.items()})
            left[name].subtract({PODS: count})
    return [Node(n.name, dict(left[n.name]), n.labels, n.taints, n.usable) for n in nodes]


@given(NODES, demands())
def test_never_more_than_is_free_allowed_or_asked_for(
    nodes: list[Node], wanted: list[Demand[str]]
) -> None:
    shares = share(nodes, wanted)
    assert set(shares) == {each.run for each in wanted}
    for node in taken(nodes, wanted, shares):
        assert all(amount >= 0 for amount in node.free.values())
    for each in wanted:
        found = shares[each.run]
        assert found.workers == sum(found.by_node.values()) <= each.at_most
        by_name = {node.name: node for node in nodes}
        for name in found.by_node:
            assert room([by_name[name]], each.shape).workers, "the node takes such workers"
    for space in ("x", "y"):
        for limit in (each.limit for each in wanted if each.group == space):
            used = sum(
                shares[each.run].workers * each.shape.requests[GPU]
                for each in wanted
                if each.group == space
            )
            assert limit is None or used <= limit[GPU]


@given(NODES, demands())
def test_nothing_is_left_that_somebody_could_have(
    nodes: list[Node], wanted: list[Demand[str]]
) -> None:
    shares = share(nodes, wanted)
    left = taken(nodes, wanted, shares)
    for each in wanted:
        if shares[each.run].workers >= each.wanted or shares[each.run].why.startswith("the name"):
            continue
        assert not room(left, each.shape).workers


@given(NODES, demands(), st.randoms(use_true_random=False))
def test_the_order_of_nodes_and_runs_does_not_matter(
    nodes: list[Node], wanted: list[Demand[str]], random: object
) -> None:
    before = share(nodes, wanted)
    random.shuffle(nodes)  # type: ignore[attr-defined]
    random.shuffle(wanted)  # type: ignore[attr-defined]
    assert share(nodes, wanted) == before


@given(NODES, SHAPES, st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=2, max_size=4))
def test_equals_get_shares_by_weight(nodes: list[Node], shape: Shape, weights: list[float]) -> None:
    wanted = [Demand(f"r{i}", shape, 100, weight) for i, weight in enumerate(weights)]
    shares = share(nodes, wanted)
    got = {each.run: shares[each.run].workers for each in wanted}
    for one in wanted:
        for other in wanted:
            # Whoever has a worker more than its part would have been after the other; but everybody
            # has a first one.
            fair = got[one.run] / one.weight <= (got[other.run] + 1) / other.weight
            assert fair or got[one.run] <= 1
            assert got[other.run] or got[one.run] <= 1


@given(NODES, SHAPES, st.integers(0, 20))
def test_a_higher_priority_is_served_as_if_it_were_alone(
    nodes: list[Node], shape: Shape, at_most: int
) -> None:
    high = Demand("high", shape, at_most, priority=5)
    low = Demand("low", shape, 100, weight=100.0)
    shares = share(nodes, [low, high])
    assert shares["high"].workers == share(nodes, [high])["high"].workers


@given(NODES, demands())
def test_whoever_has_its_share_stays_where_it_is(
    nodes: list[Node], wanted: list[Demand[str]]
) -> None:
    first = share(nodes, wanted)
    again = share(
        nodes,
        [
            Demand(
                each.run,
                each.shape,
                each.at_most,
                each.weight,
                each.priority,
                first[each.run].by_node,
                each.limit,
                each.group,
                use=each.use,
            )
            for each in wanted
        ],
    )
    one_shape = len({repr(each.shape) for each in wanted}) == 1
    for each in wanted:
        if one_shape:
            assert again[each.run].by_node == first[each.run].by_node


@given(NODES, demands())
def test_what_a_run_has_no_use_for_costs_nobody_anything(
    nodes: list[Node], wanted: list[Demand[str]]
) -> None:
    shares = share(nodes, wanted)
    strict = [replace(each, at_most=each.wanted, use=None) for each in wanted]
    without = share(nodes, strict)
    for each in wanted:
        assert shares[each.run].workers >= without[each.run].workers
        held = sum(count for name, count in each.holds.items() if name != "gone")
        assert shares[each.run].workers <= max(each.wanted, held), "nothing is begun for no use"
