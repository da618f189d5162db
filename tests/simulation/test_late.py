"""Seeds of runs that take late updates: faults, deaths of the server, and what must hold."""

from __future__ import annotations

import pytest
from fedkube_server.flower.grid import ExchangeGrid
from fedkube_server.halt import Halted
from fedkube_server.late import LateUpdates
from fedkube_server.past import Past
from late_updates import late_of

from fedkube.core.errors import FedKubeError
from tests.simulation import apps
from tests.simulation.late import check
from tests.simulation.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def six_rounds(monkeypatch):
    monkeypatch.setattr(apps, "ROUNDS", 6)


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_a_hundred_seeds_with_late_updates(first, tmp_path):
    late = lives = 0
    for seed in range(first, first + 100):
        outcome, rounds = check(Plan.of(seed).of_late(), tmp_path)
        late += len(late_of(rounds))
        lives += outcome.lives - 1
    assert late > 100, "there were hardly any"
    assert lives > 50


@pytest.mark.parametrize("step", ["begun", "torn", "written", "synced"])
def test_killed_again_and_again_with_late_updates(step, tmp_path):
    """Each life of the server dies at the same step of its fourth entry of the journal."""
    deaths = late = 0
    for seed in range(10):
        plan = Plan(seed, "", 6, 6, 300, (), (), dies=(f"journal.{step}", 4)).of_late()
        outcome, rounds = check(plan, tmp_path)
        deaths += outcome.lives - 1
        late += len(late_of(rounds))
    assert deaths >= 10
    assert late


def forgets(monkeypatch):
    """A server that takes over does not know what came late."""
    monkeypatch.setattr(Past, "recall_late", lambda self, fold: [])


def forgets_what_clients_keep(monkeypatch):
    monkeypatch.setattr(ExchangeGrid, "_remember", lambda self, client, answer: None)


def takes_all(monkeypatch):
    monkeypatch.setattr(LateUpdates, "share", lambda self, rounds: 1.0)


def counts_twice(monkeypatch):
    def take(self, taken=LateUpdates.take):
        come = taken(self)
        return [*come, *come]

    monkeypatch.setattr(LateUpdates, "take", take)


@pytest.mark.parametrize("breaks", [forgets, forgets_what_clients_keep, takes_all, counts_twice])
def test_what_is_broken_is_noticed(breaks, monkeypatch, tmp_path):
    breaks(monkeypatch)
    for seed in range(60):
        try:
            check(Plan.of(seed).of_late(), tmp_path)
        except (AssertionError, FedKubeError, Halted):
            return
    pytest.fail("nothing was")
