"""An upload whose link is cut, again and again: what of it crosses the link more than once."""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bare import BareWorker, ServerUnderTest, Update
from fedkube.wire.identity import Role
from fedkube.wire.limits import CHUNK_BYTES

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from faulty_link import Link  # among what tests share

# Bytes after which the link is cut: anywhere in a frame.
_LEAST, _MOST = 3_700_000, 5_500_000


def cuts() -> Iterator[dict[str, Any]]:
    """An upload of 100 MB whose link is cut some twenty times."""
    with ServerUnderTest(1, **{"megabytes": 100.0, "tensors": 1, "num-server-rounds": 1}) as server:
        again = asyncio.run(_sent_again(server))
        told = server.result()
    yield {
        "model_bytes": told["model-bytes"],
        "cuts": len(again),
        "state": told["state"],
        "sent_again_bytes_per_cut": round(statistics.fmean(again)),
        "sent_again_bytes_median": round(statistics.median(again)),
        "sent_again_bytes_most": max(again),
        "chunk_bytes": CHUNK_BYTES,
    }


async def _sent_again(server: ServerUnderTest) -> list[int]:
    """For each cut, the bytes that had crossed the link and were asked for again."""
    link = Link(int(server.address.rpartition(":")[2]))
    credentials = server.credentials(Role.WORKER, "worker-0")
    worker = BareWorker(await link.open(), "worker-0", credentials, Update(), returns=True)
    began: list[tuple[int, int]] = []  # the offset, and what had passed until then
    ended: list[int] = []  # what had passed at each cut
    chance = random.Random(0)
    next_cut = chance.randint(_LEAST, _MOST)
    worker.on_want = lambda offset: began.append((offset, link.up.passed))
    serving = asyncio.create_task(worker.run())
    while not serving.done():
        if len(began) > len(ended) and link.up.passed - began[-1][1] >= next_cut:
            ended.append(link.up.passed)
            link.cut()
            next_cut = chance.randint(_LEAST, _MOST)
        await asyncio.sleep(0)
    await serving
    await link.close()
    return [
        (passed - before) - (reached - offset)
        for (offset, before), passed, (reached, _) in zip(began, ended, began[1:], strict=False)
    ]
