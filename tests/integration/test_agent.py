"""A real agent and executor against a server whose every move a test makes."""

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

import exchange_harness as harness
import numpy as np
from exchange_harness import Server
from fedkube_client.agent import Agent
from fedkube_client.executor import AppSettings
from fedkube_server.calls import Answer

from fedkube.app.records import to_values
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.identity import Role

ECHO = Path(__file__).parent.parent / "apps" / "echo"


class World:
    """A server, and a real agent that is connected to it."""

    def __init__(self, agent: Agent, server: Server) -> None:
        self.agent = agent
        self.driver = server.driver
        self.outcome = server.outcome
        self._server = server

    def submit(self, number: int, *arrays: bytes) -> None:
        self._server.submit(number, *arrays, dtype="float32")

    async def until(self, holds) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - the driver has no event for bytes
                await asyncio.sleep(0.001)


@asynccontextmanager
async def world():
    trusted = harness.authority()
    server = Server(
        harness.credentials(trusted, Role.SERVER), to_values({"change": True, "changed-tensors": 0})
    )
    await server.start()
    settings = AppSettings(ECHO, "echo_app.client_app:app", 1)
    mine = harness.credentials(trusted, Role.WORKER)
    agent = Agent(server.address, "worker-0", mine, settings, 1 << 30)
    running = asyncio.create_task(agent.run(10))
    try:
        yield World(agent, server)
    finally:
        server.exchange.close("enough")
        await asyncio.wait_for(running, 10)
        await server.stop()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def plus_one(data: bytes) -> bytes:
    return (np.frombuffer(data, np.float32) + np.float32(1)).tobytes()


def floats(megabytes: int) -> bytes:
    return np.arange(megabytes * 250_000, dtype=np.float32).tobytes()


def test_task_after_task():
    async def scenario():
        async with world() as w:
            for number in range(1, 30):
                data = floats(1)[: 4 * number]
                w.submit(number, data)
                _, outcome = await w.outcome()
                assert isinstance(outcome, Answer), outcome
                assert bytes(outcome.blobs[0]) == plus_one(data)

    asyncio.run(scenario())


def test_a_task_taken_back_while_its_reply_travels_harms_nobody():
    async def scenario():
        async with world() as w:
            for number in range(1, 12, 2):
                before = w.driver.bytes_up
                w.submit(number, floats(60))
                await w.until(lambda before=before: w.driver.bytes_up > before + 3_000_000)
                w.driver.withdraw([number], pb.Failure.WITHDRAWN, "enough")
                assert (await w.outcome())[1].code == pb.Failure.WITHDRAWN
                w.submit(number + 1, floats(1))
                _, outcome = await w.outcome()
                assert isinstance(outcome, Answer), outcome
                assert bytes(outcome.blobs[0]) == plus_one(floats(1))

    asyncio.run(scenario())


def test_a_task_taken_back_while_it_comes_leaves_no_descriptor():
    async def scenario():
        async with world() as w:
            w.submit(1, floats(1))
            await w.outcome()
            before = descriptors()
            for number in range(2, 12):
                sent = w.driver.bytes_down
                w.submit(number, floats(60 + number))
                await w.until(lambda sent=sent: w.driver.bytes_down > sent + 3_000_000)
                w.driver.withdraw([number], pb.Failure.WITHDRAWN, "enough")
                await w.outcome()
            w.submit(99, floats(2))
            assert isinstance((await w.outcome())[1], Answer)
            assert descriptors() <= before + 3

    asyncio.run(scenario())


def test_a_task_taken_back_while_it_is_computed_ends_the_executor_and_no_more():
    async def scenario():
        async with world() as w:
            w.submit(1, floats(1))
            await w.outcome()
            for number in range(2, 5):
                w.submit(number, floats(40))
                await w.until(lambda: w.driver.running == 1)
                await asyncio.sleep(0.05 * number)
                w.driver.withdraw([number], pb.Failure.WITHDRAWN, "enough")
                await w.outcome()
            w.submit(9, floats(1))
            assert isinstance((await w.outcome())[1], Answer)
            assert w.agent._executor.usable

    asyncio.run(scenario())


def test_a_model_whose_parts_came_one_by_one():
    async def scenario():
        async with world() as w:
            parts = [np.full(8, number, np.float32).tobytes() for number in range(260)]
            for number in range(1, len(parts) + 1):
                w.submit(number, *parts[:number])
                _, outcome = await w.outcome()
                assert isinstance(outcome, Answer), outcome
                assert [bytes(blob) for blob in outcome.blobs] == list(
                    map(plus_one, parts[:number])
                )
            assert len(w.agent._cache._segments) < 120

    asyncio.run(scenario())


def test_models_of_the_past_are_forgotten():
    async def scenario():
        async with world() as w:
            for number in range(1, 31):
                w.submit(number, floats(4 + number % 3)[: -4 * number])
                await w.outcome()
            assert w.agent._cache.nbytes < 12 * 7_000_000

    asyncio.run(scenario())
