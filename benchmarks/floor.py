"""The machine's own limit: a bare federated round over mTLS gRPC, with nothing around it.

One server and N client processes. The server sends M bytes to each in 1 MiB messages and adds what
comes back to a sum as it arrives. No hashing, no records, no app, nothing written.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import numpy as np

from fedkube.pki.authority import Authority
from fedkube.wire import channels
from fedkube.wire.limits import CHUNK_BYTES

METHOD = "/floor/Session"


def measure(clients: int, nbytes: int, rounds: int) -> float:
    """Median seconds of a round, the first two left out."""
    authority = Authority("floor", datetime.now(UTC), timedelta(hours=1))
    server = authority.issue("s", "fedkube://f/server/s", ["127.0.0.1"], server=True)
    client = authority.issue("c", "fedkube://f/worker/c")
    ca = authority.certificate()
    ours, theirs = channels.Credentials(ca, *server), channels.Credentials(ca, *client)
    return asyncio.run(_measure(ours, theirs, clients, nbytes - nbytes % 4, rounds))


async def _measure(
    ours: channels.Credentials,
    theirs: channels.Credentials,
    clients: int,
    nbytes: int,
    rounds: int,
) -> float:
    floor = _Floor(clients, nbytes)
    handler = grpc.method_handlers_generic_handler(
        "floor", {"Session": grpc.stream_stream_rpc_method_handler(floor.session)}
    )
    server, port = channels.serve("127.0.0.1:0", ours, [handler])
    await server.start()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_client, args=(f"127.0.0.1:{port}", theirs, nbytes))
        for _ in range(clients)
    ]
    for process in processes:
        process.start()
    await floor.all_here.wait()
    seconds = [await floor.round() for _ in range(rounds + 2)]
    await floor.stop()
    await server.stop(0.1)
    for process in processes:
        process.join(10)
    return statistics.median(seconds[2:])


class _Floor:
    def __init__(self, clients: int, nbytes: int) -> None:
        self.all_here = asyncio.Event()
        self._clients = clients
        self._model = memoryview(np.zeros(nbytes, np.uint8))
        self._sum = np.zeros(nbytes // 4, np.float32)
        self._go: list[asyncio.Queue[bool]] = []
        self._done: asyncio.Queue[bool] = asyncio.Queue()

    async def session(self, _: Any, context: Any) -> None:
        go: asyncio.Queue[bool] = asyncio.Queue()
        self._go.append(go)
        if len(self._go) == self._clients:
            self.all_here.set()
        while await go.get():
            for offset in range(0, len(self._model), CHUNK_BYTES):
                await context.write(bytes(self._model[offset : offset + CHUNK_BYTES]))
            at = 0
            while at < len(self._sum):
                part = np.frombuffer(await context.read(), np.float32)
                self._sum[at : at + len(part)] += part * np.float32(0.5)
                at += len(part)
            self._done.put_nowait(True)

    async def round(self) -> float:
        self._sum[:] = 0
        began = time.perf_counter()
        for go in self._go:
            go.put_nowait(True)
        for _ in self._go:
            await self._done.get()
        return time.perf_counter() - began

    async def stop(self) -> None:
        for go in self._go:
            go.put_nowait(False)


def _client(address: str, credentials: channels.Credentials, nbytes: int) -> None:
    asyncio.run(_echo(address, credentials, nbytes))


async def _echo(address: str, credentials: channels.Credentials, nbytes: int) -> None:
    async with channels.connect(address, credentials) as channel:
        call = channel.stream_stream(METHOD)()
        model = bytearray(nbytes)
        while True:
            at = 0
            while at < nbytes:
                frame = await call.read()
                if frame is grpc.aio.EOF:
                    return
                model[at : at + len(frame)] = frame
                at += len(frame)
            view = memoryview(model)
            for offset in range(0, nbytes, CHUNK_BYTES):
                await call.write(bytes(view[offset : offset + CHUNK_BYTES]))
