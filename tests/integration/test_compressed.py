"""Compressed updates over real sockets: from a real executor, and from workers that lie."""

import asyncio
from collections import deque
from contextlib import asynccontextmanager

import exchange_harness as harness
import numpy as np
import pytest
from exchange_harness import Server
from fedkube_client.agent import Agent
from fedkube_client.executor import AppSettings
from fedkube_server.calls import Answer
from fedkube_server.folds import Fold

from fedkube.app.records import decode, to_values
from fedkube.core.quantisation import BLOCK
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels, frames
from fedkube.wire.identity import Role
from fedkube.wire.limits import PROTOCOL
from fedkube.wire.tensors import digest

BF16, INT8 = pb.COMPRESSION_BF16, pb.COMPRESSION_INT8
SIZE = 100 * BLOCK + 3
MODEL = np.random.default_rng(0).standard_normal(SIZE).astype("f4")
STEP = np.random.default_rng(1).standard_normal(SIZE).astype("f4")

# The same change at every call, so that what differs is the rounding.
APP = """
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg, context):
    model = msg.content["arrays"]["w"].numpy()
    step = np.random.default_rng(1).standard_normal(len(model)).astype("f4")
    arrays = ArrayRecord({"w": Array(model + step)})
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)
"""


def content_of(size=SIZE):
    content = pb.Content()
    item = content.records.add(name="arrays").arrays.items.add(name="w", dtype="float32")
    item.shape.append(size)
    item.stype = "numpy.ndarray"
    return content


def submit(server, number, kind, bound=False, admit=lambda answer: None, fold=None):
    """The call of this number, always for the same client."""
    task = {"base": number, "compression": kind, "bound": bound}
    server.submit_content(1, content_of(), [memoryview(MODEL.tobytes())], admit, fold, **task)


# ------------------------------------------------------------- a real worker


@asynccontextmanager
async def world(folder):
    (folder / "an_app.py").write_text(APP)
    trusted = harness.authority()
    server = Server(harness.credentials(trusted, Role.SERVER), to_values({}))
    await server.start()
    mine = harness.credentials(trusted, Role.WORKER)
    agent = Agent(server.address, "worker-0", mine, AppSettings(folder, "an_app:app", 1), 1 << 30)
    running = asyncio.create_task(agent.run(10))
    try:
        yield server
    finally:
        server.exchange.close("enough")
        await asyncio.wait_for(running, 10)
        await server.stop()


async def update(server):
    """What the newest call has made of the model."""
    _, outcome = await server.outcome()
    assert isinstance(outcome, Answer), outcome
    records = decode(outcome.outcome.content, outcome.blobs)
    return records["arrays"]["w"].numpy()


@pytest.mark.parametrize(("kind", "share"), [(BF16, 0.5), (INT8, 0.25)], ids=["bf16", "int8"])
def test_an_update_comes_in_fewer_bytes_and_is_an_array_again(tmp_path, kind, share):
    async def scenario():
        async with world(tmp_path) as server:
            submit(server, 1, kind)
            values = await update(server)
            assert values.dtype == MODEL.dtype
            np.testing.assert_allclose(values, MODEL + STEP, atol=5 / 100)
            assert server.driver.bytes_up < (share + 0.01) * MODEL.nbytes

    asyncio.run(scenario())


def test_a_bound_worker_keeps_what_rounding_loses(tmp_path):
    """Also across an update that did not count: what it carried is carried by the next."""

    async def scenario():
        async with world(tmp_path) as server:
            seen = []

            def refuse(answer):
                seen.append(
                    np.frombuffer(
                        answer.blobs[answer.outcome.content.records[0].arrays.items[0].blob], "f4"
                    )
                )
                return "no"

            submit(server, 1, INT8, bound=True)
            first = await update(server)
            submit(server, 2, INT8, bound=True, admit=refuse)
            assert isinstance((await server.outcome())[1], pb.Failure)
            submit(server, 3, INT8, bound=True)
            third = await update(server)
            submit(server, 4, INT8, bound=True)
            fourth = await update(server)
            assert third.tobytes() == seen[0].tobytes()
            assert len({each.tobytes() for each in (first, third, fourth)}) == 3
            mean = (first.astype("f8") + third + fourth) / 3
            # One rounding is lost of three updates, and not three.
            assert np.abs(mean - (MODEL + STEP)).max() < 0.4 * np.abs(first - MODEL - STEP).max()

    asyncio.run(scenario())


# ------------------------------------------------------------- workers that lie


class Liar:
    """A worker whose reply a test makes."""

    def __init__(self, channel) -> None:
        self.call = channel.stream_stream(channels.SESSION)()

    async def send(self, **kind) -> None:
        await self.call.write(frames.control(pb.WorkerFrame(**kind)))

    async def control(self) -> pb.ServerFrame:
        """The next control frame; what comes of the model is passed over."""
        while frames.is_data(frame := await asyncio.wait_for(self.call.read(), 10)):
            pass
        return frames.read_control(frame, pb.ServerFrame)

    async def reply(self, item, data: bytes) -> pb.Settled:
        """Answer the next task with this array and these bytes; how that was settled."""
        await self.send(hello=pb.Hello(protocol=PROTOCOL, worker="worker-0"))
        await self.send(ready=pb.Ready())
        while not (frame := await self.control()).HasField("task"):
            pass
        task = frame.task
        outcome = pb.Outcome(call=task.calls[0].id, content=content_of())
        outcome.content.records[0].arrays.items[0].MergeFrom(item)
        outcome.content.records.add(name="m").metrics.items.add(key="n", integer=1)
        reply = pb.Reply(upload=1, assignment=task.assignment, outcomes=[outcome])
        reply.blobs.add(id=1, digest=digest(data), nbytes=len(data))
        await self.send(reply=reply)
        while not (frame := await self.control()).HasField("settled"):
            bulk = deque([(1, [memoryview(data)], 0)])
            while frame.HasField("need") and bulk:
                await self.call.write(frames.next_data(bulk))
        return frame.settled


def lie(item, data, summed):
    """How the server settles a reply, and with whom it then goes on."""
    ended = []

    async def scenario():
        trusted = harness.authority()
        server = Server(harness.credentials(trusted, Role.SERVER))
        await server.start()
        async with channels.connect(
            server.address, harness.credentials(trusted, Role.WORKER)
        ) as channel:
            fold = Fold({"w": (SIZE,)}, "n", 2) if summed else None
            submit(server, 1, INT8, fold=fold)  # a relay looks at nothing
            settled = await Liar(channel).reply(item, data)
            ended.append((settled, (await server.outcome())[1]))
            assert server.driver.workers == 1, "the reply is lost, and not the worker"
            assert not server.failed
        await server.stop()

    asyncio.run(scenario())
    return ended[0]


GOOD = np.full(-(-SIZE // BLOCK), 0.01, "f4").tobytes() + bytes(SIZE)
BAD_SCALE = np.full(-(-SIZE // BLOCK), np.nan, "f4").tobytes() + bytes(SIZE)


@pytest.mark.parametrize("summed", [True, False], ids=["summed", "every-update"])
@pytest.mark.parametrize(
    ("item", "data", "reason"),
    [
        (pb.Array(compression=INT8, base=0), GOOD, ""),
        (pb.Array(compression=INT8), GOOD, ""),
        (pb.Array(compression=INT8, base=0), BAD_SCALE, "a scale that is no finite number"),
        (pb.Array(compression=INT8, base=0), GOOD[:-1], "another number was announced"),
        (pb.Array(compression=INT8, base=1), GOOD, "array 1 of a message that has 1"),
        (pb.Array(compression=BF16, base=0), GOOD, "a way that was not asked for"),
    ],
    ids=["right", "without-base", "scale", "size", "base", "kind"],
)
def test_what_lies_is_refused_with_a_sentence_and_the_rest_counts(item, data, reason, summed):
    settled, outcome = lie(item, data, summed)
    if not reason:
        assert not settled.refused
        assert isinstance(outcome, Answer)
        return
    (refusal,) = settled.refused
    assert reason in refusal.reason
    assert refusal.reason == outcome.reason
    assert refusal.reason.startswith("the update was refused: ")
