"""Runs whose rounds are closed by half of the clients: what the others send counts later, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from late_updates import asked_in, late_of, moved
from safetensors.numpy import load

from fedkube.store.history import Round
from tests.simulation.apps import initial
from tests.simulation.disk import Folder
from tests.simulation.plan import Plan
from tests.simulation.world import Outcome, World


def check(plan: Plan, spool: Path) -> tuple[Outcome, list[Round]]:
    """Run a plan; AssertionError where the model is not what the history says of it."""
    world = World(plan, spool)
    outcome = world.run()
    rounds = [each for each in Folder(world.disk).read_history() if each.round]
    size = plan.size
    before = {name: array.numpy() for name, array in initial(size).items()}
    far = moved(rounds)
    for name, values in load(world.disk.files["model"]).items():
        np.testing.assert_allclose(values, before[name] + np.float32(far), rtol=1e-4, atol=1e-4)
    counted = [client for each in rounds for client in counts(each, plan.clients)]
    calls = sum(counted.count(client) * (counted.count(client) + 1) // 2 for client in set(counted))
    told = sum(
        each.phases["train"].metrics["count"] * len(counts(each, plan.clients)) for each in rounds
    )
    assert abs(told - calls) < 1e-6, "what a client keeps is not that of its calls that counted"
    asked = asked_in(rounds)
    assert len(set(asked)) == len(asked), "an update counted twice"
    return outcome, rounds


def counts(entry: Round, clients: int) -> list[int]:
    """Whose updates counted in a round, those that were late after the others."""
    failed = {each.client for each in entry.phases["train"].failures}
    fresh = [client for client in range(clients) if client not in failed]
    return fresh + [late.client for late in late_of([entry])]
