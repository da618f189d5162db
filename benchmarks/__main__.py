"""Runs the benchmarks and prints a line of JSON for each: ``python -m benchmarks [NAME …]``."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import (
    compression,
    cuts,
    distance,
    late,
    memory,
    packing,
    planner,
    relays,
    rounds,
    sessions,
    uplinks,
)
from fedkube.local import machine

BENCHMARKS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "empty-round": rounds.empty_round,
    "rounds": rounds.table,
    "adapters": rounds.adapters,
    "pool": rounds.pool,
    "pool-sgd": rounds.pool_sgd,
    "memory": memory.peak,
    "cuts": cuts.cuts,
    "sessions": sessions.held,
    "uplinks": uplinks.fleet,
    "distance": distance.far,
    "relays": relays.tree,
    "packing": packing.packed,
    "late": late.late,
    "compression": compression.updates,
    "compression-accuracy": compression.accuracy,
    "compression-feedback": compression.feedback,
    "compression-rounding": compression.rounding,
    "planner": planner.traces,
    "startup": rounds.startup,
}


def main() -> None:
    """Run those that are named, or all."""
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    seen = machine.look()
    about = {"cores": seen.cores, "memory_gib": round(seen.memory_bytes / 2**30, 1)}
    print(json.dumps({"machine": {**about, "python": platform.python_version()}}), flush=True)
    for name in names:
        for line in BENCHMARKS[name]():
            print(json.dumps({"benchmark": name, **line}), flush=True)


if __name__ == "__main__":
    main()
