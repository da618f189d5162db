"""The server's peak memory, for a mean-type strategy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from benchmarks.bare import BareWorker, ServerUnderTest, Update
from fedkube.wire.identity import Role


def peak() -> Iterator[dict[str, Any]]:
    """FedAvg of a model of 100 MB, from 4 and from 64 clients at once, each with its own worker."""
    for clients in (4, 16, 64):
        with ServerUnderTest(
            clients, **{"megabytes": 100.0, "tensors": 60, "num-server-rounds": 3}
        ) as server:
            asyncio.run(_serve(server))
            told = server.result()
        model = told["model-bytes"]
        yield {
            "clients": clients,
            "model_bytes": model,
            "server_peak_rss_mb": round(told["peak_rss"] / 1e6),
            "target_mb": round((3 * model + 300e6) / 1e6),
            "round_s": round(min(told["seconds-per-round"][1:]), 3),
        }


async def _serve(server: ServerUnderTest) -> None:
    update = Update()
    workers = []
    for number in range(server.clients):
        name = f"worker-{number}"
        credentials = server.credentials(Role.WORKER, name)
        workers.append(BareWorker(server.address, name, credentials, update))
    await asyncio.gather(*(worker.run() for worker in workers))
