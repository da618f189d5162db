"""Clusters and runs as they might be, drawn from a seed: what the simulator is tried with."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fedkube.planner.simulator import Change, Training

# Seconds between two changes of the GPUs, on average, and how long one that goes stays away.
_CHANGES_S = 300.0
_AWAY_S = 600.0
_HORIZON_S = 4 * 3600.0


def trace(seed: int, clients: int = 200) -> tuple[Sequence[Change], Sequence[Training]]:
    """Up to six nodes whose GPUs come and go every few minutes, and up to four runs.

    Clients take 5 s to 2 min, up to ``clients`` of them are in a round. In the end all GPUs are
    there, so every run can end.
    """
    chance = random.Random(seed)  # noqa: S311 - nothing is kept secret by it
    sizes = [chance.choice([1, 2, 4, 8]) for _ in range(chance.randint(1, 6))]
    nodes = {f"node-{number}": size for number, size in enumerate(sizes)}
    changes = [Change(0.0, name, count) for name, count in nodes.items()]
    now = 0.0
    while (now := now + chance.expovariate(1 / _CHANGES_S)) < _HORIZON_S:
        name = chance.choice(list(nodes))
        # Drained, or some of its GPUs fail, or others take them.
        left = 0 if chance.random() < 0.5 else chance.randint(0, nodes[name])
        back = now + chance.expovariate(1 / _AWAY_S)
        changes += [Change(now, name, left), Change(back, name, nodes[name])]
    changes.sort(key=lambda each: each.at)
    changes += [Change(2 * _HORIZON_S, name, count) for name, count in nodes.items()]
    return changes, [_training(chance, number, clients) for number in range(chance.randint(1, 4))]


def _training(chance: random.Random, number: int, clients: int) -> Training:
    size, usual = chance.randint(clients // 10, clients), chance.uniform(5.0, 60.0)
    # How long a client takes is its data's size, first of all.
    own = [chance.lognormvariate(0.0, 0.4) * usual for _ in range(size)]
    rounds = [
        [min(120.0, max(5.0, each * chance.uniform(0.9, 1.1))) for each in own]
        for _ in range(chance.randint(3, 8))
    ]
    return Training(
        name=f"run-{number}",
        begins=chance.uniform(0.0, 600.0),
        rounds=rounds,
        weight=chance.choice([1.0, 1.0, 2.0]),
        priority=0 if chance.random() < 0.8 else 1,
        aggregate_s=chance.uniform(0.5, 5.0),
    )
