"""A fleet whose links are slower than the server: a round should take what one upload takes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from benchmarks.bare import BareWorker, ServerUnderTest, Update
from fedkube.wire.identity import Role

# A link of 100 Mbit/s.
_BYTES_PER_S = 12_500_000
_MEGABYTES = 25.0


def fleet() -> Iterator[dict[str, Any]]:
    """Rounds of 25 MB, each worker behind a link up of 100 Mbit/s, over what one upload takes."""
    for clients in (2, 8, 32):
        config = {"megabytes": _MEGABYTES, "tensors": 60, "num-server-rounds": 3}
        with ServerUnderTest(clients, **config) as server:
            asyncio.run(_serve(server))
            told = server.result()
        seconds = min(told["seconds-per-round"][1:])
        alone = told["model-bytes"] / _BYTES_PER_S
        yield {
            "clients": clients,
            "model_bytes": told["model-bytes"],
            "round_s": round(seconds, 2),
            "one_upload_s": round(alone, 2),
            "over_one_upload": round(seconds / alone, 2),
        }


async def _serve(server: ServerUnderTest) -> None:
    update, workers = Update(), []
    for number in range(server.clients):
        name = f"worker-{number}"
        mine = server.credentials(Role.WORKER, name)
        workers.append(BareWorker(server.address, name, mine, update, bytes_per_s=_BYTES_PER_S))
    await asyncio.gather(*(worker.run() for worker in workers))
