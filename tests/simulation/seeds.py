"""Many seeds, on several processes."""

from __future__ import annotations

import logging
import multiprocessing
import time
import traceback
from pathlib import Path

from tests.simulation.world import simulate

_SHARE = 100


def failure(seed: int, spool: Path) -> str:
    """What does not hold in a seed's run; an empty string if all does."""
    try:
        simulate(seed, spool)
    except Exception as error:  # noqa: BLE001 - told to whoever runs the seeds
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {frame.name}: {error}"
    return ""


def _share(share: tuple[int, int, Path]) -> list[tuple[int, str]]:
    logging.disable()  # what is told of a trouble is of no use without the seed's other lines
    first, count, spool = share
    return [(seed, why) for seed in range(first, first + count) if (why := failure(seed, spool))]


def many(first: int, count: int, jobs: int, spool: Path) -> int:
    """Run seeds, and tell of them; how many have failed."""
    began, done, failed = time.monotonic(), 0, 0
    shares = [
        (start, min(_SHARE, first + count - start), spool)
        for start in range(first, first + count, _SHARE)
    ]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for found, (_, size, _) in zip(pool.imap(_share, shares), shares, strict=True):
            done += size
            failed += len(found)
            for seed, why in found:
                print(f"seed {seed} failed: {why}", flush=True)
            if done % 1000 == 0:
                rate = done / (time.monotonic() - began)
                print(f"{done:,} of {count:,} seeds, {failed} failed, {rate:.0f} a second")
    print(f"{done:,} seeds, {failed} failed, {time.monotonic() - began:.0f} s")
    return failed
