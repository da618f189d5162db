"""Imagined clusters whose GPUs come and go, beside a scheduler to whom workers cost nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from fedkube.planner.simulator import ORACLE, Outcome, simulate
from fedkube.planner.traces import trace

TRACES = 1_000
MANY = 10_000


def traces(count: int = TRACES) -> Iterator[dict[str, Any]]:
    """Utilisation of GPUs over many traces, and over one with many clients."""
    began = time.perf_counter()
    found = [_pair(seed) for seed in range(count)]
    yield {"traces": count, **_summary(found), "seconds": round(time.perf_counter() - began)}
    began = time.perf_counter()
    yield {
        "clients": MANY,
        **_summary([_pair(0, MANY)]),
        "seconds": round(time.perf_counter() - began),
    }


def _pair(seed: int, clients: int = 200) -> tuple[Outcome, Outcome]:
    changes, runs = trace(seed, clients)
    ours, oracle = simulate(changes, runs), simulate(changes, runs, ORACLE)
    asked = sum(len(each) for run in runs for each in run.rounds)
    assert len(ours.counted) == asked, "a client was left out"
    assert set(ours.counted.values()) == {1}, "a client counted twice"
    return ours, oracle


def _summary(found: list[tuple[Outcome, Outcome]]) -> dict[str, Any]:
    parts = sorted(ours.utilisation / oracle.utilisation for ours, oracle in found)
    offered = [sum(each.offered_s for each in side) for side in zip(*found, strict=True)]
    return {
        "of_oracle": round(offered[1] / offered[0], 3),
        "median": round(statistics.median(parts), 3),
        "p5": round(parts[len(parts) // 20], 3),
        "least": round(parts[0], 3),
        "below_90_percent": sum(part < 0.9 for part in parts),
        "utilisation": round(statistics.median(ours.utilisation for ours, _ in found), 3),
        "calls_lost": sum(ours.lost for ours, _ in found),
        "longest_without_a_worker_s": round(max(ours.without_s for ours, _ in found), 1),
    }
