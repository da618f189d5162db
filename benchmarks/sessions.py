"""Thousands of workers that hold a session each: memory, a round for all, and a reconnect storm."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import grpc.aio

from benchmarks.bare import BareWorker, ServerUnderTest, Update
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.channels import Credentials
from fedkube.wire.identity import Role

SESSIONS = 2_000
STORM = 1_000
PROCESSES = 4
# Handshakes that a process has under way at a time while the sessions are opened.
_OPENING = 40
ROUNDS = 3


def held(sessions: int = SESSIONS, storm: int = STORM) -> Iterator[dict[str, Any]]:
    """Open the sessions, hold them, run rounds over all of them, cut half of them at once."""
    config = {"megabytes": 0.01, "tensors": 1, "num-server-rounds": ROUNDS}
    with ServerUnderTest(sessions, **config) as server:
        parts = [_Part(server, index, sessions // PROCESSES) for index in range(PROCESSES)]
        empty = server.rss_bytes()
        began = time.perf_counter()
        for part in parts:
            part.tell("open")
        for part in parts:
            part.hear("open")
        opened_s = time.perf_counter() - began
        time.sleep(5.0)
        each = (server.rss_bytes() - empty) / sessions
        began = time.perf_counter()
        for part in parts:
            part.tell("storm", storm // PROCESSES)
        lost = sum(part.hear("storm") for part in parts)
        storm_s = time.perf_counter() - began
        for part in parts:
            part.tell("ready")
        times = [part.hear("rounds") for part in parts]
        told = server.result()
    spans = [
        max(last for _, last in (part[number] for part in times))
        - min(first for first, _ in (part[number] for part in times))
        for number in range(ROUNDS)
    ]
    yield {
        "sessions": sessions,
        "kb_each": round(each / 1e3, 1),
        "opened_per_s": round(sessions / opened_s),
        "dispatch_s": round(statistics.median(spans), 2),
        "round_s": round(statistics.median(told["seconds-per-round"]), 2),
        "storm": storm,
        "storm_s": round(storm_s, 1),
        "lost_for_good": lost,
        "state": told["state"],
    }


class _Part:
    """A process with its share of the workers."""

    def __init__(self, server: ServerUnderTest, index: int, count: int) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        names = [f"worker-{index * count + number}" for number in range(count)]
        credentials = [(name, server.credentials(Role.WORKER, name)) for name in names]
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(
            target=_serve, args=(server.address, credentials, theirs), daemon=True
        )
        self._process.start()

    def tell(self, *what: Any) -> None:
        self._pipe.send(what)

    def hear(self, what: str) -> Any:
        word, value = self._pipe.recv()
        assert word == what, (word, what)
        return value


def _serve(address: str, credentials: list[tuple[str, Credentials]], pipe: Connection) -> None:
    asyncio.run(_Workers(address, credentials, pipe).run())


class _Patient(BareWorker):
    """Says that it is free when it is told to, and connects again as an agent does."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.may_serve = asyncio.Event()
        self.times: list[float] = []
        self.gone = False
        self.on_task = lambda: self.times.append(time.time())

    async def run(self) -> None:
        tries = 0
        while True:
            try:
                if await self._serve():
                    return
            except (grpc.aio.AioRpcError, asyncio.CancelledError):
                pass
            tries += 1
            await asyncio.sleep(min(5.0, 0.1 * 2**tries) * random.uniform(0.5, 1.0))

    def cut(self) -> None:
        self.welcomed.clear()
        self._call.cancel()

    def _send(self, **kind: Any) -> None:
        if "ready" in kind and not self.may_serve.is_set():
            return
        super()._send(**kind)

    def serve(self) -> None:
        self.may_serve.set()
        self._send(ready=pb.Ready())


class _Workers:
    def __init__(
        self, address: str, credentials: list[tuple[str, Credentials]], pipe: Connection
    ) -> None:
        update = Update()
        self._pipe = pipe
        self._workers = [_Patient(address, name, theirs, update) for name, theirs in credentials]

    async def run(self) -> None:
        await self._told("open")
        gate = asyncio.Semaphore(_OPENING)
        tasks: list[asyncio.Task[None]] = []

        async def open_one(worker: _Patient) -> None:
            async with gate:
                tasks.append(asyncio.create_task(worker.run()))
                await worker.welcomed.wait()

        await asyncio.gather(*map(open_one, self._workers))
        self._pipe.send(("open", None))
        (count,) = await self._told("storm")
        chosen = self._workers[:count]
        for worker in chosen:
            worker.cut()
        _, waiting = await asyncio.wait(
            [asyncio.create_task(worker.welcomed.wait()) for worker in chosen], timeout=120
        )
        self._pipe.send(("storm", len(waiting)))
        await self._told("ready")
        for worker in self._workers:
            worker.serve()
        await asyncio.gather(*tasks)
        rounds = [
            [worker.times[number] for worker in self._workers if len(worker.times) > number]
            for number in range(ROUNDS)
        ]
        self._pipe.send(("rounds", [(min(times), max(times)) for times in rounds]))

    async def _told(self, what: str) -> tuple[Any, ...]:
        word, *rest = await asyncio.to_thread(self._pipe.recv)
        assert word == what, (word, what)
        return tuple(rest)
