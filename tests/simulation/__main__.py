"""Run many seeds, or one again with all that happens in it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

from tests.simulation.plan import Plan
from tests.simulation.seeds import many
from tests.simulation.world import World, simulate


def _one(seed: int, spool: Path) -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    plan = Plan.of(seed)
    print(plan)
    World(plan, spool, tell=print).run()
    print("now against an undisturbed run")
    simulate(seed, spool)
    print("all holds")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (a CPU each)")
    parser.add_argument("--seed", type=int, help="this one alone, with what happens in it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.seed is not None:
            _one(options.seed, Path(folder))
        elif many(options.first, options.seeds, options.jobs, Path(folder)):
            sys.exit(1)


if __name__ == "__main__":
    main()
