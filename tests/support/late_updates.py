"""What a history says of updates that came late, where each update adds one to what was sent."""

from __future__ import annotations

from collections.abc import Iterable

from fedkube.store.history import Round, Stale


def late_of(rounds: Iterable[Round]) -> list[Stale]:
    """All of them."""
    return [late for each in rounds for phase in each.phases.values() for late in phase.stale]


def asked_in(rounds: Iterable[Round]) -> list[tuple[int, int]]:
    """Of each late update, whose it is and the round in which it was asked for."""
    return [(late.client, each.round - late.rounds) for each in rounds for late in late_of([each])]


def moved(rounds: Iterable[Round]) -> float:
    """How far the model must have come, with the weights of FedBuff's paper."""
    far = 0.0
    for each in rounds:
        if "train" in each.phases:
            phase = each.phases["train"]
            fresh = phase.asked - len(phase.failures)
            shares = [(1 + late.rounds) ** -0.5 for late in phase.stale]
            far += (fresh + sum(shares)) / (fresh + len(shares))
    return far
