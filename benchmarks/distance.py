"""Rounds with a worker that is far away: its link is fast, and a byte takes long on it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bare import BareWorker, ServerUnderTest, Update
from fedkube.wire.identity import Role

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from faulty_link import Link  # among what tests share


def far() -> Iterator[dict[str, Any]]:
    """Rounds of 100 MB by links on which a byte takes 0, 20 and 100 ms each way."""
    for delay_s in (0.0, 0.02, 0.1):
        config = {"megabytes": 100.0, "tensors": 60, "num-server-rounds": 6}
        with ServerUnderTest(1, **config) as server:
            asyncio.run(_serve(server, delay_s))
            told = server.result()
        first, *later = told["seconds-per-round"]
        yield {
            "delay_s": delay_s,
            "model_bytes": told["model-bytes"],
            "first_round_s": round(first, 2),
            "round_s": round(min(later), 2),
            "server_peak_rss_mb": round(told["peak_rss"] / 1e6),
        }


async def _serve(server: ServerUnderTest, delay_s: float) -> None:
    link = Link(int(server.address.rpartition(":")[2]))
    link.up.delay_s = link.down.delay_s = delay_s
    mine = server.credentials(Role.WORKER, "worker-0")
    await BareWorker(await link.open(), "worker-0", mine, Update()).run()
    await link.close()
