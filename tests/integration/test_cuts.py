"""A real agent behind a link that breaks all the time."""

import asyncio
import gc
from contextlib import asynccontextmanager
from pathlib import Path

import exchange_harness as harness
import numpy as np
import pytest
from exchange_harness import Server
from faulty_link import Link
from fedkube_client.agent import Agent
from fedkube_client.executor import AppSettings
from fedkube_server.calls import Answer
from fedkube_server.folds import Fold

from fedkube.app.records import to_values
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.identity import Role

ECHO = Path(__file__).parent.parent / "apps" / "echo"


@asynccontextmanager
async def world(breaks_after: int):
    trusted = harness.authority()
    config = to_values({"change": True, "changed-tensors": 0})
    server = Server(harness.credentials(trusted, Role.SERVER), config)
    await server.start()
    link = Link(int(server.address.rpartition(":")[2]), breaks_after)
    settings = AppSettings(ECHO, "echo_app.client_app:app", 1)
    mine = harness.credentials(trusted, Role.WORKER)
    agent = Agent(await link.open(), "worker-0", mine, settings, 1 << 30)
    running = asyncio.create_task(agent.run(30))
    try:
        yield server, link
    finally:
        link.breaks_after = None
        server.exchange.close("enough")
        await asyncio.wait_for(running, 20)
        await link.close()
        await server.stop()


def floats(megabytes: int, start: float = 0.0) -> bytes:
    return (start + np.arange(megabytes * 250_000, dtype=np.float32)).tobytes()


@pytest.mark.parametrize("breaks_after", [2_500_000, 7_777_777])
def test_arrays_come_whole_both_ways_and_nothing_is_computed_twice(breaks_after):
    async def scenario():
        async with world(breaks_after) as (server, link):
            for number in (1, 2):
                data = floats(15, number)
                server.submit(number, data, dtype="float32")
                _, outcome = await asyncio.wait_for(server.outcome(), 60)
                assert isinstance(outcome, Answer), outcome
                expected = np.frombuffer(data, np.float32) + np.float32(1)
                assert bytes(outcome.blobs[0]) == expected.tobytes()
            assert link.breaks > 5
            # Of what was lost with a cut, no more was sent again than was under way.
            assert link.passed < 60_000_000 + link.breaks * 6_000_000

    asyncio.run(scenario())


def test_a_workers_sum_survives_the_cuts():
    """Three clients' updates, summed by their worker, which is cut off again and again."""
    values = np.arange(1_000_000, dtype=np.float32)

    async def scenario():
        async with world(3_000_000) as (server, link):
            content = pb.Content()
            item = content.records.add(name="arrays").arrays.items.add(name="w", dtype="float32")
            item.shape.append(len(values))
            item.stype = "numpy.ndarray"
            fold = Fold({"w": values.shape}, "num-examples", cohort=3)
            server.submit_all([1, 2, 3], content, [memoryview(values.tobytes())], fold=fold)
            done = {(await asyncio.wait_for(server.outcome(), 60))[0] for _ in range(3)}
            assert done == {1, 2, 3}
            assert fold.weights == [1.0, 1.0, 1.0]
            np.testing.assert_array_equal(fold.mean()["w"], values + np.float32(1))
            assert link.breaks > 2

    asyncio.run(scenario())


@pytest.mark.parametrize("answers", [True, False])
def test_a_connection_that_was_cut_leaves_no_task_behind(answers):
    """Neither where there was a server nor where there was none."""
    complaints = []

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        async with world(10**9) as (server, link):
            server.submit(1, floats(1), dtype="float32")
            await asyncio.wait_for(server.outcome(), 60)
            at_first = len(asyncio.all_tasks())
            link.refuses = not answers
            for _ in range(5):
                link.cut()
                await asyncio.sleep(0.5)
            link.refuses = False
            server.submit(2, floats(1), dtype="float32")
            await asyncio.wait_for(server.outcome(), 60)
            gc.collect()
            assert len(asyncio.all_tasks()) <= at_first
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert not complaints
