"""The simulator of clusters: small ones whose course can be told by hand, and a share of many."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from fedkube.planner.simulator import ORACLE, Change, Costs, Outcome, Training, simulate
from fedkube.planner.traces import trace

FREE = Costs(react_s=0.0, start_s=0.0)
LONE = [Change(0.0, "a", 2)]


def run(*rounds: Sequence[float], name: str = "r", **more: float) -> Training:
    return Training(name, more.pop("begins", 0.0), rounds, aggregate_s=0.0, **more)  # type: ignore[arg-type]


def test_four_clients_on_two_gpus_are_two_waves() -> None:
    found = simulate(LONE, [run([10.0] * 4)], FREE)
    assert found.ended == {"r": 20.0}
    assert (found.useful_s, found.offered_s, found.utilisation, found.lost) == (40.0, 40.0, 1.0, 0)


def test_what_starting_takes_is_time_in_which_gpus_idle() -> None:
    found = simulate(LONE, [run([10.0] * 4)], Costs(react_s=1.0, start_s=8.0))
    assert found.ended == {"r": 29.0}
    assert found.utilisation == pytest.approx(40 / 58)


def test_rounds_wait_for_their_last_client_and_for_the_server() -> None:
    training = dataclasses.replace(run([10.0, 5.0], [5.0, 10.0]), aggregate_s=3.0)
    assert simulate(LONE, [training], FREE).ended == {"r": 26.0}


def test_who_took_longest_the_last_time_is_first() -> None:
    first = [5.0, 5.0, 5.0, 15.0]  # 5 + 15 on one GPU: 20 s
    assert simulate(LONE, [run(first)], FREE).ended == {"r": 20.0}
    assert simulate(LONE, [run(first)], ORACLE).ended == {"r": 15.0}
    assert simulate(LONE, [run(first, first)], FREE).ended == {"r": 35.0}, "now it is known"


def test_the_call_of_a_gpu_that_goes_is_made_again_and_counts_once() -> None:
    changes = [*LONE, Change(6.0, "a", 1)]
    found = simulate(changes, [run([10.0] * 2)], FREE)
    assert (found.ended, found.lost) == ({"r": 20.0}, 1)
    assert set(found.counted.values()) == {1}
    assert found.useful_s == 20.0, "the six seconds were for nothing"
    assert simulate(changes, [run([10.0] * 2)], ORACLE).ended == {"r": 14.0}, "it goes on"


def test_gpus_that_come_in_the_middle_of_a_round_are_used() -> None:
    changes = [Change(0.0, "a", 1), Change(10.0, "b", 3)]
    assert simulate(changes, [run([10.0] * 5)], FREE).ended == {"r": 20.0}


def test_a_run_may_begin_without_a_gpu() -> None:
    changes = [Change(0.0, "a", 0), Change(50.0, "a", 1)]
    assert simulate(changes, [run([10.0])], FREE).ended == {"r": 60.0}
    with pytest.raises(RuntimeError, match="none will come"):
        simulate([Change(0.0, "a", 0)], [run([10.0])], FREE)


def test_two_runs_share() -> None:
    both = [run([10.0] * 2, name="x"), run([10.0] * 2, name="y")]
    assert simulate(LONE, both, FREE).ended == {"x": 20.0, "y": 20.0}
    urgent = [run([10.0] * 2, name="x"), run([10.0] * 2, name="y", priority=1)]
    assert simulate(LONE, urgent, FREE).ended == {"x": 20.0, "y": 10.0}


def test_the_same_trace_is_the_same() -> None:
    assert trace(3) == trace(3)
    assert simulate(*trace(3)) == simulate(*trace(3))
    assert trace(3) != trace(4)


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_of_many_traces(first: int) -> None:
    """`python -m benchmarks planner` has a thousand; docs/planning.md has its figures."""
    sides: list[tuple[Outcome, Outcome]] = []
    for seed in range(first, first + 20):
        changes, runs = trace(seed, clients=100)
        ours, oracle = simulate(changes, runs), simulate(changes, runs, ORACLE)
        asked = sum(len(each) for each in (calls for run in runs for calls in run.rounds))
        assert len(ours.counted) == asked
        assert set(ours.counted.values()) == {1}, "each client counts once in a round"
        assert ours.useful_s == pytest.approx(oracle.useful_s)
        assert oracle.utilisation <= 1 + 1e-9
        assert ours.without_s < 60, "nobody starves"
        sides.append((ours, oracle))
    offered, ideal = (sum(each.offered_s for each in side) for side in zip(*sides, strict=True))
    assert ideal / offered > 0.9
