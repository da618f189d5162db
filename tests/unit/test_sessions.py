from __future__ import annotations

import asyncio

import pytest
from fedkube_server.blobs import BlobStore
from fedkube_server.sessions import Session

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.limits import CHUNK_BYTES
from fedkube.wire.tensors import digest


class FakeDriver:
    """Waits for the replies of one task, and takes what comes."""

    def __init__(self):
        self.bytes_up = self.bytes_down = 0
        self.known = {}
        self.refuse = ""
        self.answers = []
        self.readies = 0

    def ready(self, _):
        self.readies += 1

    def blobs_of(self, _, reply):
        return self.known if reply.task == 1 else None

    async def answered(self, _, answer):
        self.answers.append(answer)
        return self.refuse


@pytest.fixture
def driver():
    return FakeDriver()


@pytest.fixture
def broken():
    return []


@pytest.fixture
def session(driver, broken):
    return Session("w", driver, broken.append)


@pytest.fixture
def store():
    return BlobStore()


def receive(session, **kind):
    asyncio.run(session.receive(frames.control(pb.WorkerFrame(**kind))))


def send_data(session, number, data):
    for frame in frames.data(number, memoryview(data)):
        asyncio.run(session.receive(frame))


def written(session, before_frame=lambda _: None):
    """All that the session has to write: control messages, and (blob, bytes) of data frames."""
    out = []

    async def write(frame):
        before_frame(len(out))
        if frames.is_data(frame):
            number, _, data = frames.read_data(frame)
            out.append((number, bytes(data)))
        else:
            out.append(frames.read_control(frame, pb.ServerFrame))

    async def run():
        pump = asyncio.create_task(session.pump(write))
        for _ in range(20):
            await asyncio.sleep(0)
        pump.cancel()

    asyncio.run(run())
    return out


def data_of(out):
    return [each for each in out if isinstance(each, tuple)]


def announced(number, data, **fields):
    return pb.Blob(id=number, digest=digest(data), nbytes=len(data), **fields)


def reply(*blobs, task=1):
    return pb.Reply(task=task, attempt=1, content=pb.Content(), blobs=blobs)


# ------------------------------------------------------------- in


def test_a_reply_without_blobs_is_whole_at_once(session, driver):
    receive(session, reply=reply())
    assert len(driver.answers) == 1
    (settled,) = written(session)
    assert settled.settled == pb.Settled(task=1, attempt=1)


def test_a_reply_is_whole_with_its_last_byte(session, driver):
    large = bytes(CHUNK_BYTES + 1)
    receive(session, reply=reply(announced(5, b"abc"), announced(6, large), announced(7, b"")))
    send_data(session, 6, large)
    assert driver.answers == []
    send_data(session, 5, b"abc")
    (answer,) = driver.answers
    assert [bytes(blob) for blob in answer.blobs] == [b"abc", large, b""]


def test_why_a_reply_did_not_count_is_said(session, driver):
    driver.refuse = "it holds NaN"
    receive(session, reply=reply())
    assert written(session)[0].settled.refused == "it holds NaN"


def test_blobs_that_the_server_sent_need_not_come_back(session, driver, store):
    model = store.put(memoryview(b"model"))
    driver.known = {model.digest: model}
    receive(session, reply=reply(announced(1, b"model", held=True)))
    assert bytes(driver.answers[0].blobs[0]) == b"model"


def test_a_reply_that_refers_to_bytes_that_were_never_sent_is_refused(session):
    with pytest.raises(Rejected, match="refers to bytes that the server did not send"):
        receive(session, reply=reply(announced(1, b"secret of another", held=True)))


def test_a_reply_that_nobody_waits_for_is_answered_and_its_bytes_are_dropped(session, driver):
    receive(session, reply=reply(announced(5, b"abc"), task=2))
    send_data(session, 5, b"abc")
    assert driver.answers == []
    assert "nobody waits" in written(session)[0].settled.refused


def test_a_reply_before_the_one_before_is_whole_is_refused(session):
    receive(session, reply=reply(announced(5, b"abc")))
    with pytest.raises(Rejected, match="before the one before was whole"):
        receive(session, reply=reply())


def test_a_reply_of_too_many_bytes_is_refused_before_anything_is_allocated(session):
    huge = pb.Blob(id=1, digest=bytes(32), nbytes=2**63)
    with pytest.raises(Rejected, match="a message of more than"):
        receive(session, reply=reply(huge))


def test_bytes_with_another_digest_break_the_session(session, driver):
    receive(session, reply=reply(announced(5, b"abc")))
    with pytest.raises(Rejected, match="digest"):
        send_data(session, 5, b"abd")
    assert driver.answers == []


@pytest.mark.parametrize("frame", [{}, {"hello": pb.Hello()}])
def test_a_frame_that_does_not_belong_here_is_refused(session, frame):
    with pytest.raises(Rejected, match="does not belong here"):
        receive(session, **frame)


def test_a_worker_that_is_free_is_reported(session, driver):
    receive(session, ready=pb.Ready())
    assert driver.readies == 1


def test_a_broken_app_is_reported(session, broken):
    receive(session, app_broken=pb.AppBroken(traceback="Traceback"))
    assert broken == ["Traceback"]


def test_bytes_are_counted_both_ways(session, driver):
    frame = frames.control(pb.WorkerFrame(reply=reply()))
    asyncio.run(session.receive(frame))
    assert driver.bytes_up == len(frame)
    written(session)
    assert driver.bytes_down > 0


# ------------------------------------------------------------- out


def test_a_task_goes_out_with_its_blobs_after_it(session, store):
    blobs = [store.put(memoryview(data)) for data in (b"one", b"two")]
    session.give(pb.Task(id=1), blobs)
    task, *data = written(session)
    assert [(each.id, each.nbytes, each.held) for each in task.task.blobs] == [
        (blobs[0].id, 3, False),
        (blobs[1].id, 3, False),
    ]
    assert task.task.blobs[0].digest == digest(b"one")
    assert data == [(blobs[0].id, b"one"), (blobs[1].id, b"two")]


def test_a_blob_is_sent_once(session, store):
    model = store.put(memoryview(b"model"))
    session.give(pb.Task(id=1), [model, model])
    assert len(data_of(written(session))) == 1
    session.give(pb.Task(id=2), [model])
    (task,) = written(session)
    assert task.task.blobs[0].held


def test_a_blob_that_the_worker_dropped_is_sent_again_when_it_asks(session, store):
    model = store.put(memoryview(b"model"))
    session.give(pb.Task(id=1), [model])
    written(session)
    receive(session, need=pb.Need(task=1, blobs=[model.id]))
    assert data_of(written(session)) == [(model.id, b"model")]


def test_a_blob_that_was_not_offered_with_this_task_cannot_be_asked_for(session, store):
    old, new = store.put(memoryview(b"old")), store.put(memoryview(b"new"))
    session.give(pb.Task(id=1), [old])
    session.give(pb.Task(id=2), [new])
    with pytest.raises(Rejected, match="was asked for and never offered"):
        receive(session, need=pb.Need(task=2, blobs=[old.id]))


def test_a_cancelled_tasks_blobs_are_not_sent_any_more_and_are_offered_anew(session, store):
    model = store.put(memoryview(b"model"))
    session.give(pb.Task(id=1), [model])
    session.cancel(1, 1)
    task, cancel = written(session)
    assert (task.task.id, cancel.cancel) == (1, pb.Cancel(task=1, attempt=1))
    session.give(pb.Task(id=2), [model])
    task, data = written(session)
    assert not task.task.blobs[0].held
    assert data == (model.id, b"model")


def test_a_cancel_stops_a_blob_in_its_middle(session, store):
    model = store.put(memoryview(bytes(3 * CHUNK_BYTES)))
    session.give(pb.Task(id=1), [model])

    def cancel_after_the_first_chunk(count):
        if count == 1:
            session.cancel(1, 1)

    out = written(session, cancel_after_the_first_chunk)
    assert len(data_of(out)) == 1
    assert out[-1].HasField("cancel")


def test_a_reply_that_was_coming_when_its_task_was_cancelled_is_forgotten(session, driver):
    receive(session, reply=reply(announced(5, b"abc"), announced(6, b"xyz")))
    send_data(session, 5, b"abc")
    session.cancel(1, 1)
    send_data(session, 6, b"xyz")
    assert driver.answers == []
    receive(session, reply=reply(announced(7, b"new")))
    send_data(session, 7, b"new")
    assert [bytes(blob) for blob in driver.answers[0].blobs] == [b"new"]


def test_what_a_worker_asks_for_an_earlier_task_is_not_sent(session, store):
    model = store.put(memoryview(b"model"))
    session.give(pb.Task(id=1, attempt=1), [model])
    session.cancel(1, 1)
    session.give(pb.Task(id=2, attempt=1), [model])
    written(session)
    receive(session, need=pb.Need(task=1, attempt=1, blobs=[model.id]))
    assert written(session) == []
    receive(session, need=pb.Need(task=2, attempt=1, blobs=[model.id]))
    assert data_of(written(session)) == [(model.id, b"model")]


def test_control_frames_overtake_blobs(session, store):
    session.give(pb.Task(id=1), [store.put(memoryview(bytes(3 * CHUNK_BYTES)))])

    def goodbye(count):
        if count == 2:
            session.welcome(pb.Welcome(run="r"))

    kinds = [isinstance(each, tuple) for each in written(session, goodbye)]
    assert kinds == [False, True, True, False, True] or kinds == [False, True, False, True, True]


def test_closing_says_goodbye_once_and_ends_the_stream(session):
    session.close("the run is over")
    session.close("again")
    out = []

    async def write(frame):
        out.append(frames.read_control(frame, pb.ServerFrame).goodbye.reason)

    asyncio.run(session.pump(write))
    assert out == ["the run is over"]
