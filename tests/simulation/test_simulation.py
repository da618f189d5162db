"""Runs with faults from a seed: a thousand of them, and what the simulation itself owes."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from fedkube_server.driver import Driver

from fedkube.core import ids, stragglers
from fedkube.core.tasks import Dispatcher
from fedkube.store import journal
from tests.simulation.kept import KEPT
from tests.simulation.seeds import failure
from tests.simulation.world import KINDS, Plan, World, compare, simulate

# Of a server that died in the midst of something there are coroutines without a loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SHARE = 100

# How often the server dies at one step; `make soak` has a hundred.
DEATHS = int(os.environ.get("FEDKUBE_DEATHS", "20"))


@pytest.mark.parametrize("first", range(0, 1000, SHARE))
def test_a_hundred_seeds(first, tmp_path):
    failed = {seed: why for seed in range(first, first + SHARE) if (why := failure(seed, tmp_path))}
    assert not failed


# Of two workers for six clients each sends sums of updates; of six, each sends its own one.
@pytest.mark.parametrize("step", ["begun", "torn", "written", "synced"])
@pytest.mark.parametrize(
    ("app", "workers"), [("FedAvg", 2), ("FedAvg", 6), ("FedAdam", 2), ("Krum", 2), ("own loop", 2)]
)
def test_killed_again_and_again(app, workers, step, tmp_path):
    """Each life of the server dies at the same step of its second entry of the journal."""
    deaths = 0
    for seed in range(DEATHS):
        plan = Plan(seed, app, 6, workers, 300, (), (), dies=(f"journal.{step}", 2))
        deaths += compare(plan, tmp_path).lives - 1
        if deaths >= DEATHS:
            break
    assert deaths >= DEATHS


@pytest.mark.parametrize("what", KEPT)
def test_what_once_failed(what, tmp_path):
    compare(KEPT[what], tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_seed_is_the_same_run(seed, tmp_path):
    once, again = (World(Plan.of(seed), tmp_path).run() for _ in range(2))
    assert once == again


def test_seeds_differ(tmp_path):
    assert len({simulate(seed, tmp_path).trace for seed in range(20)}) == 20


def test_most_of_what_can_happen_happens(tmp_path):
    happened, lives = set(), set()
    for seed in range(60):
        outcome = simulate(seed, tmp_path)
        happened |= outcome.happened.keys()
        lives.add(outcome.lives)
    assert happened >= {*KINDS, "died"}
    assert lives >= {1, 2, 3}


def test_calls_that_two_workers_make_change_no_bit(monkeypatch, tmp_path):
    """Half of the seeds above speculate; here nearly every call that can be made twice is."""
    monkeypatch.setattr(stragglers, "LEAST_ENDED", 1)
    monkeypatch.setattr(stragglers, "LEAST_S", 0.01)
    monkeypatch.setattr(stragglers, "FACTOR", 1.0)
    given, left = [], []
    race, forfeit = Dispatcher.race, Dispatcher.forfeit

    def count(self, tasks):
        effects = race(self, tasks)
        given.extend(effects)
        return effects

    def count_left(self, session, task):
        left.append(forfeit(self, session, task))
        return left[-1]

    monkeypatch.setattr(Dispatcher, "race", count)
    monkeypatch.setattr(Dispatcher, "forfeit", count_left)
    for seed in range(75):
        compare(replace(Plan.of(seed), workers=4, speculates=True), tmp_path)
    assert len(given) >= 50
    assert any(left), "one of the two was lost, and the other went on"


# ----------------------------------------------------------------- what it would find


def found(tmp_path, first=0):
    return any(failure(seed, tmp_path) for seed in range(first, first + 150))


def test_numbers_that_begin_anew_in_each_life_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(ids, "first_number", lambda entropy: 1)
    assert found(tmp_path, first=500)


def test_a_journal_that_is_not_read_to_its_digests_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(journal, "_digest", lambda *parts: bytes(16))
    assert found(tmp_path)


def test_a_clients_state_that_is_not_taken_up_again_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(Driver, "remember", lambda self, client, state: None)
    assert found(tmp_path)


def test_a_sum_that_its_worker_has_lost_and_nobody_makes_again_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(Driver, "lost", lambda self, session, calls: None)
    assert found(tmp_path)
