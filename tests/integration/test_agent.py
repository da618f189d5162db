"""A real agent and executor against a server whose every move a test makes."""

import asyncio
import os
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from fedkube_client.agent import Agent
from fedkube_client.executor import AppSettings
from fedkube_server import states
from fedkube_server.blobs import BlobStore
from fedkube_server.driver import Answer, Driver, NewTask
from fedkube_server.exchange import Exchange

from fedkube.app.records import to_values
from fedkube.core.tasks import Dispatcher
from fedkube.pki.authority import Authority
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels
from fedkube.wire.channels import Credentials
from fedkube.wire.identity import Identity, Role

ECHO = Path(__file__).parent.parent / "apps" / "echo"
RUN = "run-1"


class Nothing:
    """A recorder for servers that record nothing."""

    def snapshot(self, seen, running, workers):
        return pb.Snapshot(), seen


class World:
    """A server with a driver and no app, and an agent that is connected to it."""

    def __init__(self, agent: Agent, driver: Driver) -> None:
        self.agent = agent
        self.driver = driver
        self.store = BlobStore()
        self.outcomes: asyncio.Queue[tuple[int, object]] = asyncio.Queue()

    def submit(self, number: int, *arrays: bytes) -> None:
        content = pb.Content()
        record = content.records.add(name="arrays")
        for index, data in enumerate(arrays):
            entry = record.arrays.items.add(name=f"w{index}", dtype="float32", blob=index)
            entry.shape.append(len(data) // 4)
            entry.stype = "numpy.ndarray"
        frame = pb.Task(
            id=number, node=5, message_id=f"m{number}", message_type="train", content=content,
            created_at=time.time(), ttl=100, seed=1,
        )  # fmt: skip
        task = NewTask(
            id=number,
            client=number,
            frame=frame,
            blobs=[self.store.put(memoryview(data)) for data in arrays],
            admit=lambda answer: None,
            settled=lambda outcome: self.outcomes.put_nowait((number, outcome)),
            expires_in_s=60,
        )
        self.driver.submit([task])

    async def outcome(self) -> tuple[int, object]:
        return await asyncio.wait_for(self.outcomes.get(), 20)

    async def until(self, holds) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - the driver has no event for bytes
                await asyncio.sleep(0.001)


@asynccontextmanager
async def world():
    authority = Authority("test", datetime.now(UTC), timedelta(hours=1))

    def credentials(role, hosts=()):
        uri = Identity(RUN, role, "worker-0").uri()
        pair = authority.issue("x", uri, hosts, server=role is Role.SERVER)
        return Credentials(authority.certificate(), *pair)

    store = BlobStore()
    driver = Driver(
        asyncio.get_running_loop(), Dispatcher(), lambda answer: states.keep(answer, store)
    )
    config = to_values({"change": True})
    exchange = Exchange(
        RUN,
        driver,
        Nothing(),
        lambda: pb.Welcome(run=RUN, flower_run=3, run_config=config),
        lambda traceback: None,
        lambda reason, broken: None,
    )
    driver.changed = exchange.changed
    server, port = channels.serve(
        "127.0.0.1:0", credentials(Role.SERVER, ["127.0.0.1"]), exchange.handlers()
    )
    await server.start()
    settings = AppSettings(ECHO, "echo_app.client_app:app", 1)
    address = f"127.0.0.1:{port}"
    agent = Agent(address, "worker-0", credentials(Role.WORKER), settings, 1 << 30)
    running = asyncio.create_task(agent.run(10))
    try:
        yield World(agent, driver)
    finally:
        exchange.close("enough")
        await asyncio.wait_for(running, 10)
        await server.stop(0)


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
            first = w.agent._executor.pid
            for number in range(2, 5):
                w.submit(number, floats(40))
                await w.until(lambda: w.driver.running == 1)
                await asyncio.sleep(0.05 * number)
                w.driver.withdraw([number], pb.Failure.WITHDRAWN, "enough")
                await w.outcome()
            w.submit(9, floats(1))
            assert isinstance((await w.outcome())[1], Answer)
            assert w.agent._executor.pid >= first

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
