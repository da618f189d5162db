"""Rounds with and without relays: what arrives at the server, its memory, the time of a round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import rounds

WORKERS = 8
MEGABYTES = 25.0


def tree() -> Iterator[dict[str, Any]]:
    """Eight workers and 25 MB: one client for each, or four; no relay, and two."""
    for clients in (WORKERS, 4 * WORKERS):
        plain = _measure(clients, 0)
        yield plain
        relayed = _measure(clients, 2)
        ratios = {
            f"{name}_over_none": round(relayed[name] / plain[name], 3)
            for name in ("arrived_bytes", "server_peak_rss_mb", "round_s")
        }
        yield {**relayed, **ratios}


def _measure(clients: int, relays: int) -> dict[str, Any]:
    measured = rounds.fedkube(
        clients, MEGABYTES, tensors=60, rounds=5, workers=WORKERS, relays=relays
    )
    wanted = ("clients", "model_bytes", "round_s", "server_peak_rss_mb", "arrived_bytes")
    told = {name: measured[name] for name in wanted}
    models = round(told["arrived_bytes"] / told["model_bytes"], 2)
    return {"relays": relays, **told, "arrived_models": models}
