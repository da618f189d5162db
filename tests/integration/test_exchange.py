"""The exchange over real sockets: who is let in, and what happens to peers that break its rules."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import exchange_harness as harness
import grpc
import grpc.aio
import pytest
from exchange_harness import Server
from fedkube_server.driver import Answer

from fedkube.pki.authority import Authority
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels, frames
from fedkube.wire.control import ControlClient
from fedkube.wire.identity import Role
from fedkube.wire.limits import CHUNK_BYTES, CONTROL_BYTES, PROTOCOL
from fedkube.wire.tensors import digest

SOON = timedelta(hours=1)
MODEL = bytes(range(256)) * 20_000  # five frames


class Worker:
    """A worker that says exactly what a test wants."""

    def __init__(self, channel, name: str = "worker-0") -> None:
        self.call = channel.stream_stream(channels.SESSION)()
        self.name = name

    async def hello(self, **changes) -> pb.Welcome:
        hello = {"protocol": PROTOCOL, "worker": self.name, **changes}
        await self.send(hello=pb.Hello(**hello))
        return (await self.control()).welcome

    async def send(self, **kind) -> None:
        await self.call.write(frames.control(pb.WorkerFrame(**kind)))

    async def frame(self) -> bytes:
        return await asyncio.wait_for(self.call.read(), 10)

    async def control(self) -> pb.ServerFrame:
        frame = await self.frame()
        assert frame is not grpc.aio.EOF, await self.call.details()
        return frames.read_control(frame, pb.ServerFrame)

    async def task(self) -> tuple[pb.Task, bytes]:
        """The next task and the bytes that come with it."""
        await self.send(ready=pb.Ready())
        task = (await self.control()).task
        data = b""
        while len(data) < sum(blob.nbytes for blob in task.blobs if not blob.held):
            data += frames.read_data(await self.frame())[2]
        return task, data

    async def reply(self, task: pb.Task, data: bytes, **changes) -> None:
        """A reply with one array; ``changes`` are to its blob."""
        blob = {"id": 1, "digest": digest(data), "nbytes": len(data), **changes}
        reply = pb.Reply(task=task.id, attempt=task.attempt, content=task.content)
        reply.blobs.add(**blob)
        await self.send(reply=reply)

    async def data(self, data: bytes) -> None:
        for frame in frames.data(1, memoryview(data)):
            await self.call.write(frame)

    async def how_it_ended(self) -> tuple[grpc.StatusCode, str]:
        try:
            while (await self.frame()) is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        return await self.call.code(), await self.call.details()


@pytest.fixture
def world():
    """Start a server, and make channels with certificates of any kind to it."""
    trusted = harness.authority()

    @asynccontextmanager
    async def open_world() -> AsyncIterator[tuple[Server, object]]:
        server = Server(harness.credentials(trusted, Role.SERVER))
        await server.start()
        opened = []

        def channel(name="worker-0", role=Role.WORKER, run=harness.RUN, by=None, before=None):
            if before is not None:
                before(trusted)
            mine = harness.credentials(trusted, role, name, run, by)
            opened.append(channels.connect(server.address, mine))
            return opened[-1]

        channel.trusted = trusted
        try:
            yield server, channel
        finally:
            for each in opened:
                await each.close()
            await server.stop()

    return open_world


def in_world(world, scenario) -> None:
    async def play() -> None:
        async with world() as (server, channel):
            await asyncio.wait_for(scenario(server, channel), 30)

    asyncio.run(play())


def refused(world, connect, hello=None):
    """How a session ends that is refused at its beginning."""
    ended = []

    async def scenario(server, channel):
        worker = Worker(connect(channel, server))
        try:
            await worker.send(hello=pb.Hello(protocol=PROTOCOL, worker="worker-0", **(hello or {})))
            ended.append(await worker.how_it_ended())
        except grpc.aio.AioRpcError as error:
            ended.append((error.code(), error.details()))
        assert server.driver.workers == 0

    in_world(world, scenario)
    return ended[0]


# ----------------------------------------------------------------- who is let in


def test_a_worker_of_this_run_is_let_in(world):
    async def scenario(server, channel):
        assert (await Worker(channel()).hello()).run == harness.RUN

    in_world(world, scenario)


def test_plaintext_is_refused(world):
    code, _ = refused(world, lambda _, server: grpc.aio.insecure_channel(server.address))
    assert code is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_authority_is_refused(world):
    other = Authority("other", datetime.now(UTC), SOON)
    code, _ = refused(world, lambda channel, _: channel(by=other))
    assert code is grpc.StatusCode.UNAVAILABLE


def test_an_expired_certificate_is_refused(world):
    def connect(channel, _):
        def expired(authority):
            # The authority is still good; only what it issues now has ended.
            authority._end = datetime.now(UTC) - timedelta(minutes=1)

        return channel(before=expired)

    code, _ = refused(world, connect)
    assert code is grpc.StatusCode.UNAVAILABLE


def test_a_worker_of_another_run_is_refused(world):
    code, why = refused(world, lambda channel, _: channel(run="run-2"))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "of run run-2" in why


def test_an_operator_is_no_worker(world):
    code, why = refused(world, lambda channel, _: channel(role=Role.OPERATOR))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "of role operator, which may not call this" in why


def test_a_worker_says_hello_in_its_own_name(world):
    code, why = refused(world, lambda channel, _: channel(name="worker-7"))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "the certificate is for 'worker-7', and 'worker-0' says hello" in why


def test_another_version_of_the_exchange_is_refused(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.send(hello=pb.Hello(protocol=PROTOCOL + 1, worker="worker-0"))
        code, why = await worker.how_it_ended()
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "use the same release of fedkube on both ends" in why

    in_world(world, scenario)


def test_a_worker_may_not_follow_or_stop_the_run(world):
    async def scenario(server, channel):
        stop = channel().unary_unary(
            channels.STOP,
            request_serializer=pb.StopRequest.SerializeToString,
            response_deserializer=pb.StopReply.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stop(pb.StopRequest(reason="mine"))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert server.stopped == []

    in_world(world, scenario)


def test_an_operator_follows_and_stops_the_run(world):
    async def scenario(server, channel):
        credentials = harness.credentials(channel.trusted, Role.OPERATOR, "o")
        control = ControlClient(server.address, credentials)
        async for snapshot in control.watch():
            assert snapshot.state == "Running"
            break
        assert await control.stop("enough", 5)
        assert server.stopped == [("enough", False)]
        await control.close()

    in_world(world, scenario)


# ----------------------------------------------------------------- tasks and replies


def test_a_task_goes_out_and_its_reply_counts(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        server.submit(1, MODEL)
        task, data = await worker.task()
        assert data == MODEL
        await worker.reply(task, MODEL[::-1])
        await worker.data(MODEL[::-1])
        number, outcome = await server.outcome()
        assert number == 1
        assert isinstance(outcome, Answer)
        assert bytes(outcome.blobs[0]) == MODEL[::-1]
        assert (await worker.control()).settled.refused == ""

    in_world(world, scenario)


def test_arrays_that_a_worker_has_are_not_sent_again(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        server.submit(1, MODEL)
        server.submit(2, MODEL)
        task, data = await worker.task()
        assert len(data) == len(MODEL)
        await worker.reply(task, MODEL, held=True)
        assert bytes((await server.outcome())[1].blobs[0]) == MODEL
        assert (await worker.control()).HasField("settled")
        task, data = await worker.task()
        assert task.blobs[0].held
        assert data == b""
        number = task.blobs[0].id
        await worker.send(need=pb.Need(task=task.id, attempt=task.attempt, blobs=[number]))
        _, offset, part = frames.read_data(await worker.frame())
        assert (offset, bytes(part)) == (0, MODEL[:CHUNK_BYTES])

    in_world(world, scenario)


def test_a_reply_that_is_not_admitted_does_not_count(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        server.submit(1, MODEL, admit=lambda answer: "it is not nice")
        task, _ = await worker.task()
        await worker.reply(task, b"x" * 300_000)
        await worker.data(b"x" * 300_000)
        _, outcome = await server.outcome()
        assert outcome.code == pb.Failure.REFUSED
        assert outcome.reason == "the update was refused: it is not nice"

    in_world(world, scenario)


def test_a_second_reply_and_one_of_an_old_attempt_do_not_count(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        server.submit(1, MODEL)
        task, _ = await worker.task()
        stale = pb.Task()
        stale.CopyFrom(task)
        stale.attempt = 9
        await worker.reply(stale, MODEL, held=True)
        assert "nobody waits" in (await worker.control()).settled.refused
        await worker.reply(task, MODEL, held=True)
        assert (await worker.control()).settled.refused == ""
        await worker.reply(task, MODEL, held=True)
        assert "nobody waits" in (await worker.control()).settled.refused
        await server.outcome()
        assert server.silent

    in_world(world, scenario)


def test_a_worker_lost_in_the_middle_of_its_reply_leaves_nothing(world):
    async def scenario(server, channel):
        first = Worker(channel())
        await first.hello()
        server.submit(1, MODEL)
        task, _ = await first.task()
        await first.reply(task, MODEL)
        await first.call.write(next(frames.data(1, memoryview(MODEL))))
        first.call.cancel()
        second = Worker(channel(name="worker-1"), "worker-1")
        await second.hello()
        again, _ = await second.task()
        assert (again.id, again.attempt) == (1, 2)
        await second.reply(again, MODEL[::-1])
        await second.data(MODEL[::-1])
        _, outcome = await server.outcome()
        assert bytes(outcome.blobs[0]) == MODEL[::-1]

    in_world(world, scenario)


def test_a_newer_session_of_the_same_worker_fences_the_older(world):
    async def scenario(server, channel):
        older = Worker(channel())
        await older.hello()
        server.submit(1, MODEL)
        task, _ = await older.task()
        newer = Worker(channel())
        await newer.hello()
        again, _ = await newer.task()
        assert (again.id, again.attempt) == (1, 2)
        with contextlib.suppress(grpc.aio.AioRpcError):  # the server may have hung up already
            await older.reply(task, MODEL, held=True)
        await older.how_it_ended()
        assert server.silent
        await newer.reply(again, MODEL, held=True)
        assert isinstance((await server.outcome())[1], Answer)
        assert server.driver.workers == 1

    in_world(world, scenario)


def test_a_cancelled_task_stops_its_transfer_and_the_next_is_whole(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        large = bytes(50_000_000)
        server.submit(1, large)
        await worker.send(ready=pb.Ready())
        task = (await worker.control()).task
        first = frames.read_data(await worker.frame())
        assert first[1] == 0
        server.driver.withdraw([task.id], pb.Failure.WITHDRAWN, "enough")
        received = 0
        while True:
            frame = await worker.frame()
            if not frames.is_data(frame):
                break
            received += len(frame)
        assert frames.read_control(frame, pb.ServerFrame).cancel.task == 1
        assert received < len(large) / 2
        server.submit(2, large)
        task, data = await worker.task()
        assert task.id == 2
        assert data == large

    in_world(world, scenario)


def test_a_request_that_crosses_a_cancellation_is_ignored(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        server.submit(1, MODEL)
        old, _ = await worker.task()
        server.driver.withdraw([1], pb.Failure.WITHDRAWN, "enough")
        assert (await worker.control()).HasField("cancel")
        need = pb.Need(task=old.id, attempt=old.attempt, blobs=[old.blobs[0].id])
        await worker.send(need=need)
        server.submit(2, MODEL)
        task, data = await worker.task()
        assert (task.id, data) == (2, MODEL)

    in_world(world, scenario)


def test_a_message_too_large_to_send_fails_and_the_worker_goes_on(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        await worker.send(ready=pb.Ready())
        content = pb.Content()
        for number in range(1200):
            configs = content.records.add(name=str(number)).configs
            configs.items.add(key="k", data=bytes(16_000))
        server.submit_content(1, content)
        _, outcome = await server.outcome()
        assert outcome.code == pb.Failure.REFUSED
        assert "the message cannot be sent" in outcome.reason
        server.submit(2, MODEL)
        assert (await worker.control()).task.id == 2

    in_world(world, scenario)


def test_a_check_that_breaks_costs_the_reply_and_not_the_worker(world):
    def broken(answer):
        raise TypeError("no such type")

    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        server.submit(1, MODEL, admit=broken)
        task, _ = await worker.task()
        await worker.reply(task, MODEL, held=True)
        _, outcome = await server.outcome()
        assert "it could not be checked: TypeError: no such type" in outcome.reason
        assert server.driver.workers == 1

    in_world(world, scenario)


def test_an_app_that_cannot_be_loaded_is_reported(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        await worker.send(app_broken=pb.AppBroken(traceback="ImportError: no"))
        await worker.call.done_writing()
        await worker.how_it_ended()
        assert server.broken == ["ImportError: no"]

    in_world(world, scenario)


# ----------------------------------------------------------------- broken rules


def breaks(world, misdeed) -> str:
    """What the server says to a worker that does this with its task; the task goes to another."""
    said = []

    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        server.submit(1, MODEL)
        task, _ = await worker.task()
        await misdeed(worker, task)
        code, why = await worker.how_it_ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        said.append(why)
        other = Worker(channel(name="worker-1"), "worker-1")
        await other.hello()
        again, _ = await other.task()
        await other.reply(again, MODEL, held=True)
        assert isinstance((await server.outcome())[1], Answer)

    in_world(world, scenario)
    return said[0]


def test_bytes_with_another_digest(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL)
        await worker.data(MODEL[:-1] + b"!")

    assert "do not have the announced digest" in breaks(world, misdeed)


def test_a_gap_in_the_bytes(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL)
        sent = list(frames.data(1, memoryview(MODEL)))
        await worker.call.write(sent[0])
        await worker.call.write(sent[2])

    assert "was next" in breaks(world, misdeed)


def test_more_bytes_than_announced(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL[:1000])
        await worker.data(MODEL[:2000])

    assert "more bytes came than were announced" in breaks(world, misdeed)


def test_a_size_beyond_the_limit_is_refused_before_anything_is_allocated(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL, nbytes=1 << 60)

    assert "a message of more than" in breaks(world, misdeed)


def test_too_many_arrays(world):
    async def misdeed(worker, task):
        reply = pb.Reply(task=task.id, attempt=task.attempt, content=task.content)
        for number in range(10_001):
            reply.blobs.add(id=number, digest=bytes(32), nbytes=1)
        await worker.send(reply=reply)

    assert "more than 10000 blobs" in breaks(world, misdeed)


def test_a_digest_of_another_length(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL, digest=b"short")

    assert "a digest of 5 bytes" in breaks(world, misdeed)


def test_bytes_said_to_be_the_servers_that_are_not(world):
    async def misdeed(worker, task):
        await worker.reply(task, b"never sent", held=True)

    assert "did not send" in breaks(world, misdeed)


def test_asking_for_what_was_not_offered(world):
    async def misdeed(worker, task):
        await worker.send(need=pb.Need(task=task.id, attempt=task.attempt, blobs=[4711]))

    assert "never offered" in breaks(world, misdeed)


def test_what_is_no_frame(world):
    async def misdeed(worker, task):
        await worker.call.write(b"\x00hello")

    assert "no frame" in breaks(world, misdeed)


def test_a_control_frame_that_cannot_be_parsed(world):
    async def misdeed(worker, task):
        await worker.call.write(bytes([frames.CONTROL]) + b"\xff" * 40)

    assert "cannot be parsed" in breaks(world, misdeed)


def test_a_reply_of_nothing(world):
    async def misdeed(worker, task):
        await worker.send(reply=pb.Reply(task=task.id, attempt=task.attempt))

    assert "neither content nor failure" in breaks(world, misdeed)


def test_two_replies_at_once(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL)
        await worker.reply(task, MODEL)

    assert "before the one before was whole" in breaks(world, misdeed)


def test_a_message_over_the_cap(world):
    async def scenario(server, channel):
        credentials = harness.credentials(channel.trusted, Role.WORKER).client()
        unlimited = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.secure_channel(server.address, credentials, options=unlimited) as wide:
            worker = Worker(wide)
            await worker.hello()
            await worker.call.write(bytes([frames.CONTROL]) + bytes(CONTROL_BYTES + 100))
            code, _ = await worker.how_it_ended()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

    in_world(world, scenario)
