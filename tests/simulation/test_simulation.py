"""Runs with faults from a seed: a thousand of them, and what the simulation itself owes."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from fedkube_server.driver import Driver
from fedkube_server.flower import strategy_state
from fedkube_server.past import Past
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    MultiKrum,
)

from fedkube.core import ids, stragglers
from fedkube.core.tasks import Dispatcher
from fedkube.store import journal
from tests.simulation import apps
from tests.simulation.apps import APPS, around, strategy
from tests.simulation.kept import KEPT
from tests.simulation.plan import KINDS, Plan
from tests.simulation.seeds import failure
from tests.simulation.world import World, compare, expected, simulate

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


# Momenta, second moments, clips, noise and what is numbered: all of it has to go on as it was.
STRATEGIES = {
    "FedAdagrad": strategy(FedAdagrad, eta=0.1),
    "FedAdam": strategy(FedAdam, eta=0.1),
    "FedAvg": strategy(FedAvg),
    "FedAvgM": strategy(FedAvgM, server_learning_rate=0.9, server_momentum=0.5),
    "FedYogi": strategy(FedYogi, eta=0.1),
    "MultiKrum": strategy(MultiKrum, num_malicious_nodes=1, num_nodes_to_select=2),
    "adaptive clips": around(
        DifferentialPrivacyServerSideAdaptiveClipping, 0.1, 6, initial_clipping_norm=5.0
    ),
    "half": strategy(FedAvg, fraction_train=0.5, fraction_evaluate=0.5),
    "noise": around(DifferentialPrivacyServerSideFixedClipping, 0.1, 5.0, 6),
}


@pytest.fixture
def condensing(monkeypatch):
    """The plan of an app of 18 rounds, each life of whose server dies at this step."""

    def plan(name, step, number):
        monkeypatch.setitem(APPS, name, STRATEGIES[name])
        return Plan(1, name, 6, 2, 3000, (), (), dies=(f"journal.{step}", number), condenses=True)

    monkeypatch.setattr(apps, "ROUNDS", 18)
    expected.cache_clear()  # of runs with fewer rounds
    yield plan
    expected.cache_clear()


@pytest.mark.parametrize(
    ("step", "number"), [("begun", 5), ("synced", 5), ("condensing", 1), ("condensed", 1)]
)
@pytest.mark.parametrize("name", STRATEGIES)
def test_killed_again_and_again_with_a_journal_that_is_condensed(
    name, step, number, condensing, tmp_path, monkeypatch
):
    """Rounds that are behind are not repeated, and what follows is the same to the bit."""
    forward, forwarded = Past.forward, []

    def count(self, condensed):
        forwarded.append(condensed.entry.rounds)
        forward(self, condensed)

    monkeypatch.setattr(Past, "forward", count)
    assert compare(condensing(name, step, number), tmp_path).lives > 1
    assert forwarded == sorted(forwarded)
    # Each life that dies before what it would put in their place has all the rounds to repeat.
    assert bool(forwarded) is (step != "condensing")


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
    assert happened >= {*KINDS, "relay", "died"}
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
        pool = {"workers": 4, "relays": 0, "sites": False}
        compare(replace(Plan.of(seed), speculates=True, **pool), tmp_path)
    assert len(given) >= 50
    assert any(left), "one of the two was lost, and the other went on"


# ----------------------------------------------------------------- what it would find


def found(tmp_path, first=0):
    return any(failure(seed, tmp_path) for seed in range(first, first + 150))


@pytest.mark.parametrize(("lost", "name"), [("change", "FedAdam"), ("set_chance", "half")])
def test_a_strategy_that_does_not_go_on_as_it_was_is_found(
    lost, name, condensing, monkeypatch, tmp_path
):
    monkeypatch.setattr(strategy_state, lost, lambda *_: None)
    with pytest.raises(AssertionError, match="than an undisturbed run's"):
        compare(condensing(name, "synced", 5), tmp_path)


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
