"""The exchange over real sockets: who is let in, and what happens to peers that break its rules."""

import asyncio
from datetime import UTC, datetime, timedelta

import exchange_harness as harness
import grpc
import grpc.aio
import numpy as np
import pytest
from fedkube_server import sessions, workers
from fedkube_server.calls import Answer
from scripted_worker import Worker, all_frames, parts

from fedkube.pki.authority import Authority
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels, frames
from fedkube.wire.control import ControlClient
from fedkube.wire.identity import Role
from fedkube.wire.limits import CHUNK_BYTES, CONTROL_BYTES, MAX_CORRUPT, PROTOCOL
from fedkube.wire.tensors import digest

SOON = timedelta(hours=1)
MODEL = bytes(range(256)) * 20_000  # five frames


@pytest.fixture
def world():
    """Start a server, and make channels with certificates of any kind to it."""
    return harness.open_world


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


def test_the_workers_of_a_group_go_by_its_name_and_their_own(world):
    async def scenario(server, channel):
        for name in ("pool.a", "pool.b"):
            welcome = await Worker(channel(name="pool"), name).hello()
            assert welcome.run == harness.RUN
        assert server.driver.workers == 2

    in_world(world, scenario)


def test_a_name_that_only_begins_like_the_groups_is_another(world):
    code, why = refused(world, lambda channel, _: channel(name="worker"))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "the certificate is for 'worker', and 'worker-0' says hello" in why


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
        assert not (await worker.settled()).refused

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
        await worker.settled()
        task, data = await worker.task()
        assert task.blobs[0].held
        assert data == b""
        number = task.blobs[0].id
        want = pb.Want(blob=number, offset=CHUNK_BYTES)
        await worker.send(need=pb.Need(of=task.assignment, wants=[want]))
        ((_, offset, part),) = parts(await worker.frame())
        assert (offset, part) == (CHUNK_BYTES, MODEL[CHUNK_BYTES : 2 * CHUNK_BYTES])

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


def test_a_second_reply_and_one_of_an_old_assignment_do_not_count(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        server.submit(1, MODEL)
        task, _ = await worker.task()
        stale = pb.Task()
        stale.CopyFrom(task)
        stale.assignment = 9
        await worker.reply(stale, MODEL, held=True)
        assert "nobody waits" in (await worker.settled()).refused[0].reason
        await worker.reply(task, MODEL, held=True)
        assert not (await worker.settled()).refused
        await worker.reply(task, MODEL, held=True)
        assert "nobody waits" in (await worker.settled()).refused[0].reason
        await server.outcome()
        assert server.silent

    in_world(world, scenario)


def test_a_worker_lost_in_the_middle_of_its_reply_leaves_nothing(world, monkeypatch):
    monkeypatch.setattr(workers, "RESUME_S", 0.2)

    async def scenario(server, channel):
        first = Worker(channel())
        await first.hello()
        server.submit(1, MODEL)
        task, _ = await first.task()
        await first.reply(task, MODEL)
        assert (await first.control()).HasField("need")
        await first.write(all_frames(1, MODEL)[0])
        first.call.cancel()
        second = Worker(channel(name="worker-1"), "worker-1")
        await second.hello()
        again, _ = await second.task()
        assert (again.calls[0].id, again.assignment) == (1, 2)
        await second.reply(again, MODEL[::-1])
        await second.data(MODEL[::-1])
        _, outcome = await server.outcome()
        assert bytes(outcome.blobs[0]) == MODEL[::-1]

    in_world(world, scenario)


def test_a_newer_session_of_the_same_worker_fences_the_older(world):
    async def scenario(server, channel):
        older = Worker(channel())
        await older.hello(incarnation="older")
        server.submit(1, MODEL)
        task, _ = await older.task()
        newer = Worker(channel())
        await newer.hello(incarnation="newer")
        again, _ = await newer.task()
        assert (again.calls[0].id, again.assignment) == (1, 2)
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
        ((_, offset, _),) = parts(await worker.frame())
        assert offset == 0
        server.driver.withdraw([1], pb.Failure.WITHDRAWN, "enough")
        received = 0
        while True:
            frame = await worker.frame()
            if not frames.is_data(frame):
                break
            received += len(frame)
        assert frames.read_control(frame, pb.ServerFrame).cancel.calls == [1]
        assert received < len(large) / 2
        server.submit(2, large)
        task, data = await worker.task()
        assert task.calls[0].id == 2
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
        need = pb.Need(of=old.assignment, wants=[pb.Want(blob=old.blobs[0].id)])
        await worker.send(need=need)
        server.submit(2, MODEL)
        task, data = await worker.task()
        assert (task.calls[0].id, data) == (2, MODEL)

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
        assert (await worker.control()).task.calls[0].id == 2

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


def test_bytes_that_never_have_their_digest(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL)
        for _ in range(MAX_CORRUPT):
            await worker.data(MODEL[:-1] + b"!")

    assert "never with the digest" in breaks(world, misdeed)


def test_a_gap_in_the_bytes(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL)
        sent = all_frames(1, MODEL)
        await worker.write(sent[0])
        await worker.write(sent[2])

    assert "was next" in breaks(world, misdeed)


def test_more_bytes_than_announced(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL[:1000])
        for frame in all_frames(1, MODEL[:2000]):
            await worker.write(frame)

    assert "more bytes came than were announced" in breaks(world, misdeed)


def test_a_size_beyond_the_limit_is_refused_before_anything_is_allocated(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL, nbytes=1 << 60)

    assert "a message of more than" in breaks(world, misdeed)


def test_too_many_arrays(world):
    async def misdeed(worker, task):
        reply = pb.Reply(upload=1, assignment=task.assignment)
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
        await worker.send(need=pb.Need(of=task.assignment, wants=[pb.Want(blob=4711)]))

    assert "never offered" in breaks(world, misdeed)


def test_what_is_no_frame(world):
    async def misdeed(worker, task):
        await worker.write(b"\x00hello")

    assert "no frame" in breaks(world, misdeed)


def test_a_control_frame_that_cannot_be_parsed(world):
    async def misdeed(worker, task):
        await worker.write(bytes([frames.CONTROL]) + b"\xff" * 40)

    assert "cannot be parsed" in breaks(world, misdeed)


def test_a_reply_of_nothing(world):
    async def misdeed(worker, task):
        outcome = pb.Outcome(call=task.calls[0].id)
        await worker.send(reply=pb.Reply(upload=1, assignment=task.assignment, outcomes=[outcome]))

    assert "neither content nor failure" in breaks(world, misdeed)


def test_two_replies_with_the_same_blob(world):
    async def misdeed(worker, task):
        await worker.reply(task, MODEL)
        await worker.reply(task, MODEL, id=1)

    assert "blob 1 was announced twice" in breaks(world, misdeed)


def test_a_message_over_the_cap(world):
    async def scenario(server, channel):
        credentials = harness.credentials(channel.trusted, Role.WORKER).client()
        unlimited = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.secure_channel(server.address, credentials, options=unlimited) as wide:
            worker = Worker(wide)
            await worker.hello()
            await worker.write(bytes([frames.CONTROL]) + bytes(CONTROL_BYTES + 100))
            code, _ = await worker.how_it_ended()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

    in_world(world, scenario)


# ----------------------------------------------------------------- cuts


def test_an_upload_that_is_cut_again_and_again_goes_on_from_where_it_was(world):
    """Of what the server has got, nothing is asked for twice."""
    large = np.random.default_rng(0).bytes(12_345_678)

    async def scenario(server, channel):
        connection = channel()
        worker = Worker(connection)
        await worker.hello(incarnation="one life")
        server.submit(1, MODEL)
        task, _ = await worker.task()
        outcome = pb.Outcome(call=1, content=task.content)
        reply = pb.Reply(upload=1, assignment=task.assignment, outcomes=[outcome])
        reply.blobs.add(id=1, digest=digest(large), nbytes=len(large))
        offsets = []
        while True:
            await worker.send(reply=reply)
            need = (await worker.control()).need
            offsets.append(need.wants[0].offset)
            sent = all_frames(1, large, need.wants[0].offset)
            received = server.driver.bytes_up
            for frame in sent[:2]:
                await worker.write(frame)
            if len(sent) <= 2:
                break
            while server.driver.bytes_up == received:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
            worker.call.cancel()
            worker = Worker(connection)
            await worker.hello(incarnation="one life", assignments=[task.assignment])
        _, outcome = await server.outcome()
        assert bytes(outcome.blobs[0]) == large
        assert offsets == sorted(offsets)
        assert len(offsets) > 5
        assert all(offset % CHUNK_BYTES == 0 for offset in offsets)

    in_world(world, scenario)


def test_a_task_that_is_being_served_across_a_cut_is_given_to_nobody_else(world):
    async def scenario(server, channel):
        connection = channel()
        worker = Worker(connection)
        await worker.hello(incarnation="one life")
        other = Worker(channel(name="worker-1"), "worker-1")
        await other.hello()
        server.submit(1, MODEL)
        task, _ = await worker.task()
        await other.send(ready=pb.Ready())
        worker.call.cancel()
        worker = Worker(connection)
        await worker.hello(incarnation="one life", assignments=[task.assignment])
        await worker.reply(task, MODEL, held=True)
        assert isinstance((await server.outcome())[1], Answer)
        server.submit(2, MODEL)
        assert (await other.control()).task.calls[0].id == 2

    in_world(world, scenario)


def test_a_task_that_a_cut_has_swallowed_is_given_again(world):
    async def scenario(server, channel):
        connection = channel()
        worker = Worker(connection)
        await worker.hello(incarnation="one life")
        server.submit(1, MODEL)
        await worker.task()
        worker.call.cancel()
        worker = Worker(connection)
        await worker.hello(incarnation="one life")
        task, data = await worker.task()
        assert (task.calls[0].id, task.assignment, data) == (1, 2, b"")
        assert task.blobs[0].held, "the worker asks for what it has not got"

    in_world(world, scenario)


def test_a_worker_that_was_started_again_has_nothing_any_more(world):
    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello(incarnation="one life")
        server.submit(1, MODEL)
        await worker.task()
        worker.call.cancel()
        worker = Worker(channel())
        await worker.hello(incarnation="another")
        task, data = await worker.task()
        assert (task.calls[0].id, task.assignment, data) == (1, 2, MODEL)

    in_world(world, scenario)


def test_a_hello_of_an_older_life_that_comes_late_sends_nobody_away(world):
    async def scenario(server, channel):
        newer = Worker(channel())
        await newer.hello(incarnation="newer", began=200.0)
        older = Worker(channel())
        hello = pb.Hello(protocol=PROTOCOL, worker="worker-0", incarnation="older", began=100.0)
        await older.send(hello=hello)
        code, why = await older.how_it_ended()
        assert code is grpc.StatusCode.ALREADY_EXISTS, "it may try again"
        assert why == "a newer process has this worker's place"
        server.submit(1, MODEL)
        task, _ = await newer.task()
        assert task.calls[0].id == 1

    in_world(world, scenario)


def test_a_sender_of_a_few_bytes_is_sent_away_and_the_others_go_on(world, monkeypatch):
    monkeypatch.setattr(sessions, "MIN_RATE_WINDOW_S", 0.6)
    monkeypatch.setattr(sessions, "MIN_BYTES_PER_S", 10**9)

    async def scenario(server, channel):
        worker = Worker(channel())
        await worker.hello()
        server.submit(1, MODEL)
        task, _ = await worker.task()
        await worker.reply(task, MODEL)
        code, why = await worker.how_it_ended()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, "it may try again"
        assert "bytes a second, and at least" in why
        other = Worker(channel(name="worker-1"), "worker-1")
        await other.hello()
        again, _ = await other.task()
        await other.reply(again, MODEL, held=True)
        assert isinstance((await server.outcome())[1], Answer)

    in_world(world, scenario)
