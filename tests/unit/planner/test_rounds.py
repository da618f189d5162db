"""How long rounds take, and what would make them shorter."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkube.planner.rounds import Place, Plan, Work, makespan, plan, span

DURATIONS = st.lists(st.floats(0.1, 100.0), min_size=1, max_size=6)


def best(durations: list[float], workers: int) -> float:
    """By trying all."""
    return min(
        max(
            sum(d for d, w in zip(durations, given_to, strict=True) if w == each)
            for each in range(workers)
        )
        for given_to in itertools.product(range(workers), repeat=len(durations))
    )


@settings(max_examples=60)
@given(DURATIONS, st.integers(1, 3))
def test_it_is_within_four_thirds_of_the_best(durations: list[float], workers: int) -> None:
    found = makespan(durations, workers)
    assert best(durations, workers) * (1 - 1e-9) <= found
    assert found <= best(durations, workers) * (4 / 3 - 1 / (3 * workers)) * (1 + 1e-9)


@given(DURATIONS, st.integers(1, 8))
def test_more_workers_never_take_longer_and_nothing_is_shorter_than_the_longest(
    durations: list[float], workers: int
) -> None:
    found = makespan(durations, workers)
    assert found >= max(durations)
    assert found >= sum(durations) / workers * (1 - 1e-9)
    # LPT of equal machines: one worker more takes no longer than the bound of one fewer.
    assert makespan(durations, len(durations)) == max(durations)


def test_equal_clients_are_waves() -> None:
    assert makespan([10.0] * 64, 13) == 50.0
    assert makespan([], 3) == 0.0


def planned(workers: int = 13, most: int = 64, at_once: int = 1, **work: Any) -> Plan:
    place = Place(
        workers, {"a": workers, "b": 0}, most, "3 nodes with no more nvidia.com/gpu free",
        "nvidia.com/gpu", 1, workers, at_once,
    )  # fmt: skip
    return plan(
        Work(**{"calls": 64, "client_s": 60.0, "rounds": 10, "model_bytes": 10**6} | work), place
    )


def test_a_plan() -> None:
    found = planned()
    assert (found.workers, found.waves, found.round_s, found.run_s) == (13, 5, 300.0, 3000.0)
    assert found.placement == {"a": 13}
    assert (found.accelerators_free, found.clients_per_accelerator) == (13, 1)
    assert found.accelerator_hours == pytest.approx(3000 * 13 / 3600)
    assert found.bytes_per_round == 10**6 * (13 + 26)
    assert found.why == (
        "3 nodes with no more nvidia.com/gpu free; 3 more GPUs would cut the round from 5 min to "
        "4 min"
    )


def test_what_is_not_known_is_not_made_up() -> None:
    found = planned(client_s=None, rounds=0, model_bytes=None)
    assert (found.round_s, found.run_s, found.bytes_per_round) == (None, None, None)
    assert found.accelerator_hours is None
    assert found.why.endswith("3 more GPUs would cut the round from 5 to 4 waves")
    assert planned(rounds=0).run_s is None


def test_why_it_is_not_faster() -> None:
    assert planned(most=4).why == (
        "no more than 4 asked for; 1 more worker would cut the round from 16 min to 13 min"
    )
    at_once = "all clients of a round are served at once: more workers would idle"
    assert planned(calls=8).why == at_once
    assert planned(workers=4, at_once=2, calls=8).why == at_once
    none = planned(workers=0)
    assert (none.workers, none.waves, none.round_s) == (0, 0, None)
    assert none.why == "no worker fits: 3 nodes with no more nvidia.com/gpu free"


def test_several_clients_on_each_accelerator() -> None:
    found = planned(at_once=4)
    assert (found.workers, found.clients_per_accelerator) == (13, 4)
    assert (found.waves, found.round_s) == (2, 120.0)
    assert found.accelerator_hours == pytest.approx(1200 * 13 / 3600)
    assert found.bytes_per_round == 10**6 * (52 + 64)
    assert found.why.endswith("; 3 more GPUs would cut the round from 2 min to 60 s")
    assert planned(at_once=4, client_s=None).why.endswith("from 2 to 1 waves")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "0.5 s"),
        (45, "45 s"),
        (119, "119 s"),
        (720, "12 min"),
        (5400, "90 min"),
        (12600, "3.5 h"),
    ],
)
def test_times_as_people_say_them(seconds: float, words: str) -> None:
    assert span(seconds) == words
