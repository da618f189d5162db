from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
from fedkube_server.blobs import BlobStore
from fedkube_server.credits import Credits
from fedkube_server.driver import Examined
from fedkube_server.landing import Spool
from fedkube_server.sessions import Session, Shared

from fedkube.core.errors import Environment, Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.limits import CHUNK_BYTES
from fedkube.wire.tensors import digest


class FakeDriver:
    """Waits for the replies to one assignment, and takes what comes."""

    def __init__(self):
        self.bytes_up = self.bytes_down = 0
        self.known = {}
        self.refuse = ""
        self.answers = []
        self.sums = []
        self.readies = 0
        self.lost_calls = []

    def ready(self, _):
        self.readies += 1

    def widen(self, _, slots):
        self.slots = slots

    def lost(self, _, calls):
        self.lost_calls += calls

    def examine(self, _, reply):
        if reply.assignment != 1:
            return Examined({}, {}, set())
        return Examined(self.known, {}, set(range(len(reply.blobs))))

    def examine_sum(self, _, update):
        return Examined(self.known, {}, set(range(len(update.blobs))))

    async def answered(self, _, reply, landed):
        if reply.assignment != 1:
            return [pb.Refusal(call=1, reason="nobody waits")]
        self.answers.append([bytes(each.view()) for each in landed])
        return [pb.Refusal(call=1, reason=self.refuse)] if self.refuse else []

    async def summed(self, _, update, landed):
        self.sums.append([bytes(each.view()) for each in landed])
        return []

    async def to_the_end(self, work):
        return await work


@pytest.fixture
def driver():
    return FakeDriver()


@pytest.fixture
def broken():
    return []


@pytest.fixture
def credits():
    return Credits(limit=1)


@pytest.fixture
def failed():
    return []


@pytest.fixture
def site(driver, broken, credits, failed, tmp_path):
    return Shared(driver, Spool(tmp_path), credits, broken.append, failed.append)


@pytest.fixture
def session(site):
    return Session("w", "life 1", site)


@pytest.fixture
def store():
    return BlobStore()


def run(work):
    return asyncio.run(work)


def receive(session, **kind):
    run(session.receive(frames.control(pb.WorkerFrame(**kind))))


def send_data(session, number, data, start=0):
    bulk = deque([(number, [memoryview(data)], start)])
    while bulk:
        run(session.receive(frames.next_data(bulk)))


def written(session, before_frame=lambda _: None):
    """All that the session has to write: control messages, and (blob, bytes) of data frames."""
    out = []

    async def write(frame):
        before_frame(len(out))
        if frames.is_data(frame):
            out.extend((number, bytes(data)) for number, _, data in frames.read_data(frame))
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


def reply(*blobs, assignment=1, upload=1, follow=True):
    outcomes = [pb.Outcome(call=1, content=pb.Content())]
    return pb.Reply(
        assignment=assignment, upload=upload, outcomes=outcomes, blobs=blobs, bytes_follow=follow
    )


# ------------------------------------------------------------- in


def test_a_reply_without_blobs_is_whole_at_once(session, driver):
    receive(session, reply=reply())
    assert len(driver.answers) == 1
    (settled,) = written(session)
    assert settled.settled == pb.Settled(upload=1)


def test_a_reply_is_whole_with_its_last_byte(session, driver):
    longer = bytes(70_000)
    receive(session, reply=reply(announced(5, b"abc"), announced(6, longer), announced(7, b"")))
    send_data(session, 6, longer)
    assert driver.answers == []
    send_data(session, 5, b"abc")
    assert driver.answers == [[b"abc", longer, b""]]


def test_a_sum_is_taken_as_a_reply_is(session, driver):
    receive(session, sum=pb.Sum(upload=1, blobs=[announced(5, b"abc")], bytes_follow=True))
    send_data(session, 5, b"abc")
    assert driver.sums == [[b"abc"]]
    assert written(session)[0].settled.upload == 1


def test_why_a_reply_did_not_count_is_said(session, driver):
    driver.refuse = "it holds NaN"
    receive(session, reply=reply())
    assert written(session)[0].settled.refused == [pb.Refusal(call=1, reason="it holds NaN")]


def test_blobs_that_the_server_sent_need_not_come_back(session, driver, store):
    model = store.put(memoryview(b"model"))
    driver.known = {model.digest: model}
    receive(session, reply=reply(announced(1, b"model", held=True)))
    assert driver.answers == [[b"model"]]


def test_a_reply_that_refers_to_bytes_that_were_never_sent_is_refused(session):
    with pytest.raises(Rejected, match="refers to bytes that the server did not send"):
        receive(session, reply=reply(announced(1, b"secret of another", held=True)))


def test_a_reply_that_nobody_waits_for_is_answered_and_its_bytes_are_dropped(session, driver):
    receive(session, reply=reply(announced(5, b"abc"), assignment=2))
    send_data(session, 5, b"abc")
    assert driver.answers == []
    assert "nobody waits" in written(session)[0].settled.refused[0].reason


def test_a_blob_number_is_of_one_upload_at_a_time(session):
    receive(session, reply=reply(announced(5, b"abc")))
    with pytest.raises(Rejected, match="blob 5 was announced twice"):
        receive(session, reply=reply(announced(5, b"abc"), upload=2))


def test_a_reply_of_too_many_bytes_is_refused_before_anything_is_allocated(session):
    huge = pb.Blob(id=1, digest=bytes(32), nbytes=2**63)
    with pytest.raises(Rejected, match="a message of more than"):
        receive(session, reply=reply(huge))


def test_bytes_with_another_digest_are_asked_for_again_and_those_alone(session, driver):
    receive(session, reply=reply(announced(5, b"abc"), announced(6, b"right")))
    send_data(session, 5, b"abd")
    send_data(session, 6, b"right")
    assert driver.answers == []
    (need,) = written(session)
    assert need.need == pb.Need(of=1, wants=[pb.Want(blob=5)])
    send_data(session, 5, b"abc")
    assert driver.answers == [[b"abc", b"right"]]


# ------------------------------------------------------------- credits


LARGE = bytes(3 * CHUNK_BYTES)


def test_a_large_reply_comes_when_it_is_asked_for(session, driver):
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    (need,) = written(session)
    assert need.need == pb.Need(of=1, wants=[pb.Want(blob=5)])
    send_data(session, 5, LARGE)
    assert driver.answers == [[LARGE]]


def test_one_large_reply_waits_for_the_other(site, session, driver):
    other = Session("v", "life 1", site)
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    receive(other, reply=reply(announced(5, LARGE), follow=False))
    assert written(other) == []
    send_data(session, 5, LARGE)
    assert written(other)[0].need.of == 1


def test_who_waits_for_a_credit_and_breaks_a_rule_has_done_so_itself(site, session, driver):
    other = Session("v", "life 1", site)
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    receive(other, reply=reply(announced(5, LARGE), follow=False))
    with pytest.raises(Rejected, match="blob 5 was announced twice"):
        receive(other, reply=reply(announced(5, LARGE), follow=False, upload=2))
    with pytest.raises(Rejected, match="blob 6 was announced twice"):
        receive(other, reply=reply(announced(6, LARGE), announced(6, b""), follow=False, upload=3))
    nothing = pb.Blob(id=8, digest=bytes(32))
    with pytest.raises(Rejected, match="an empty blob has another digest"):
        receive(other, reply=reply(announced(7, LARGE), nothing, follow=False, upload=4))
    send_data(session, 5, LARGE)
    assert driver.answers == [[LARGE]], "and nobody else"


def test_a_slow_sender_holds_up_nobody(site, session, driver):
    other = Session("v", "life 1", site)
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    receive(other, reply=reply(announced(5, LARGE), follow=False))
    assert session.look(time.monotonic() + 1) is None
    assert written(other)[0].need.of == 1
    send_data(session, 5, LARGE)
    assert driver.answers == [[LARGE]], "it is only slow"


def test_a_sender_that_does_not_fill_the_server_holds_up_nobody(site, driver, credits):
    now = [100.0]
    site = replace(site, clock=lambda: now[0])
    workers = [Session(f"w{number}", "life 1", site) for number in range(3)]
    for each in workers:
        receive(each, reply=reply(announced(5, LARGE), follow=False))
    fast, moderate, last = workers
    frame = frames.next_data(deque([(5, [memoryview(LARGE)], 0)]))
    now[0] += 0.01
    run(fast.receive(frame))
    assert written(moderate) == []
    send_data(fast, 5, LARGE, CHUNK_BYTES)
    assert written(moderate)[0].need.of == 1
    now[0] += 0.3
    run(moderate.receive(frame))
    assert written(last)[0].need.of == 1


def test_a_sender_that_is_far_too_slow_is_given_up(session):
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    assert "bytes a second, and at least" in session.look(time.monotonic() + 100)


def test_a_worker_that_is_gone_gives_its_credit_back(site, session):
    other = Session("v", "life 1", site)
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    receive(other, reply=reply(announced(5, LARGE), follow=False))
    session.end()
    assert written(other)[0].need.of == 1


def test_a_disk_that_cannot_be_written_is_told_as_the_servers_trouble(site, session, failed):
    site.spool = Spool(Path("/nowhere"), heap_bytes=0)
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    (error,) = failed
    assert isinstance(error, Environment)
    assert "no room for the clients' updates" in error.message


# ------------------------------------------------------------- cuts


def test_bytes_of_ours_are_referred_to_with_their_number(session, driver, store):
    """Another number, and what is summed would have another length than was checked."""
    model = store.put(memoryview(b"model"))
    driver.known = {model.digest: model}
    blob = announced(1, b"model", held=True)
    blob.nbytes = 4
    with pytest.raises(Rejected, match="to another number of them"):
        receive(session, reply=reply(blob))


def resumed(session, **hello):
    async def resume():
        session.greet(pb.Welcome(run="r"), pb.Hello(**hello))

    asyncio.run(resume())


def test_after_a_cut_an_upload_goes_on_from_where_it_was(session, driver):
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    written(session)
    run(session.receive(frames.next_data(deque([(5, [memoryview(LARGE)], 0)]))))
    resumed(session, assignments=[])
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    welcome, need = written(session)
    assert welcome.HasField("welcome"), "a session begins with it"
    assert need.need == pb.Need(of=1, wants=[pb.Want(blob=5, offset=CHUNK_BYTES)])
    send_data(session, 5, LARGE, CHUNK_BYTES)
    assert driver.answers == [[LARGE]]


def test_a_settled_upload_that_is_announced_again_is_settled_again_and_counts_once(session, driver):
    receive(session, reply=reply())
    resumed(session)
    receive(session, reply=reply(follow=False))
    assert [each.settled.upload for each in written(session)[1:]] == [1]
    assert len(driver.answers) == 1


def test_an_upload_that_a_later_one_overtook_is_not_taken_for_settled(session, driver):
    """The later one was small and came at once; then the stream was cut."""
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    receive(session, reply=reply(upload=2))
    assert driver.answers == [[]]
    resumed(session)
    receive(session, reply=reply(announced(5, LARGE), follow=False))
    welcome, need = written(session)
    assert welcome.HasField("welcome")
    assert need.need == pb.Need(of=1, wants=[pb.Want(blob=5)])
    send_data(session, 5, LARGE)
    assert driver.answers == [[], [LARGE]]


def test_a_task_that_a_cut_has_swallowed_is_given_again(session, driver, store):
    model = store.put(memoryview(b"model"))
    for assignment in (1, 2):
        calls = [pb.Call(id=assignment * 10)]
        session.give(pb.Task(assignment=assignment, calls=calls), [model])
    resumed(session, assignments=[2])
    assert driver.lost_calls == [10]
    (welcome,) = written(session)
    assert welcome.HasField("welcome"), "what was not written yet is not, now"


def test_what_was_taken_back_meanwhile_is_cancelled_again(session):
    resumed(session, assignments=[7])
    welcome, cancel = written(session)
    assert (welcome.welcome.run, cancel.cancel) == ("r", pb.Cancel(assignments=[7]))


def test_a_worker_with_a_sum_is_asked_for_it_again(session):
    resumed(session, held=[3])
    assert written(session)[1].HasField("flush")


# ------------------------------------------------------------- other frames


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
    session.give(pb.Task(assignment=1, calls=[pb.Call(id=1)]), blobs)
    task, *data = written(session)
    assert [(each.id, each.nbytes, each.held) for each in task.task.blobs] == [
        (blobs[0].id, 3, False),
        (blobs[1].id, 3, False),
    ]
    assert task.task.blobs[0].digest == digest(b"one")
    assert data == [(blobs[0].id, b"one"), (blobs[1].id, b"two")]


def test_a_blob_is_sent_once(session, store):
    model = store.put(memoryview(b"model"))
    session.give(pb.Task(assignment=1, calls=[pb.Call(id=1)]), [model, model])
    assert len(data_of(written(session))) == 1
    session.give(pb.Task(assignment=2, calls=[pb.Call(id=2)]), [model])
    (task,) = written(session)
    assert task.task.blobs[0].held


def test_a_blob_that_the_worker_dropped_is_sent_again_when_it_asks(session, store):
    model = store.put(memoryview(b"model"))
    session.give(pb.Task(assignment=1, calls=[pb.Call(id=1)]), [model])
    written(session)
    receive(session, need=pb.Need(of=1, wants=[pb.Want(blob=model.id)]))
    assert data_of(written(session)) == [(model.id, b"model")]


def test_a_blob_that_was_not_offered_with_this_task_cannot_be_asked_for(session, store):
    old, new = store.put(memoryview(b"old")), store.put(memoryview(b"new"))
    session.give(pb.Task(assignment=1, calls=[pb.Call(id=1)]), [old])
    session.give(pb.Task(assignment=2, calls=[pb.Call(id=2)]), [new])
    with pytest.raises(Rejected, match="was asked for and never offered"):
        receive(session, need=pb.Need(of=2, wants=[pb.Want(blob=old.id)]))


def test_a_cancelled_tasks_blobs_are_not_sent_any_more_and_are_offered_anew(session, store):
    model = store.put(memoryview(b"model"))
    session.give(pb.Task(assignment=1, calls=[pb.Call(id=1)]), [model])
    session.cancel([1])
    task, cancel = written(session)
    assert (task.task.assignment, cancel.cancel) == (1, pb.Cancel(calls=[1]))
    session.give(pb.Task(assignment=2, calls=[pb.Call(id=2)]), [model])
    task, data = written(session)
    assert not task.task.blobs[0].held
    assert data == (model.id, b"model")


def test_what_another_assignment_waits_for_is_sent_whatever_is_cancelled(session, store):
    shared, own = store.put(memoryview(b"model")), store.put(memoryview(b"state"))
    session.give(pb.Task(assignment=1, calls=[pb.Call(id=1)]), [shared, own])
    session.give(pb.Task(assignment=2, calls=[pb.Call(id=2)]), [shared])
    session.cancel([1])
    assert data_of(written(session)) == [(shared.id, b"model")]
    session.give(pb.Task(assignment=3, calls=[pb.Call(id=3)]), [shared, own])
    task, data = written(session)
    assert [blob.held for blob in task.task.blobs] == [True, False]
    assert data == (own.id, b"state")


def test_an_assignment_is_over_with_the_last_of_its_calls(session, driver, store):
    """A relay's ends call by call, a cancelled one among them."""
    model = store.put(memoryview(b"model"))
    calls = [pb.Call(id=call) for call in (1, 2, 3)]
    session.give(pb.Task(assignment=1, calls=calls), [model])
    written(session)
    part = reply(upload=1)
    part.outcomes.add(call=1)
    part.more = True
    receive(session, reply=part)
    resumed(session, assignments=[1])
    session.cancel([2])
    resumed(session)
    assert driver.lost_calls == [3]


def test_a_relay_says_how_many_assignments_it_takes(site, driver):
    receive(Session("r", "life 1", site, relays=True), capacity=pb.Capacity(assignments=4))
    assert driver.slots == 4


def test_a_worker_takes_one(session):
    with pytest.raises(Rejected, match="only a relay"):
        receive(session, capacity=pb.Capacity(assignments=4))


def test_a_cancel_stops_a_blob_in_its_middle(session, store):
    model = store.put(memoryview(bytes(3 * CHUNK_BYTES)))
    session.give(pb.Task(assignment=1, calls=[pb.Call(id=1)]), [model])

    def cancel_after_the_first_chunk(count):
        if count == 1:
            session.cancel([1])

    out = written(session, cancel_after_the_first_chunk)
    assert len(data_of(out)) == 1
    assert out[-1].HasField("cancel")


def test_a_reply_that_was_coming_when_its_task_was_cancelled_is_forgotten(session, driver):
    receive(session, reply=reply(announced(5, b"abc"), announced(6, b"xyz")))
    send_data(session, 5, b"abc")
    session.cancel([1])
    send_data(session, 6, b"xyz")
    assert driver.answers == []
    assert [each.settled.upload for each in written(session) if each.HasField("settled")] == [1]
    receive(session, reply=reply(announced(7, b"new"), upload=2))
    send_data(session, 7, b"new")
    assert driver.answers == [[b"new"]]


def test_what_a_worker_asks_for_an_earlier_task_is_not_sent(session, store):
    model = store.put(memoryview(b"model"))
    session.give(pb.Task(assignment=1, calls=[pb.Call(id=1)]), [model])
    session.cancel([1])
    session.give(pb.Task(assignment=2, calls=[pb.Call(id=2)]), [model])
    written(session)
    receive(session, need=pb.Need(of=1, wants=[pb.Want(blob=model.id)]))
    assert written(session) == []
    receive(session, need=pb.Need(of=2, wants=[pb.Want(blob=model.id)]))
    assert data_of(written(session)) == [(model.id, b"model")]


def test_control_frames_overtake_blobs(session, store):
    session.give(
        pb.Task(assignment=1, calls=[pb.Call(id=1)]),
        [store.put(memoryview(bytes(3 * CHUNK_BYTES)))],
    )

    def goodbye(count):
        if count == 2:
            session.flush()

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


# ------------------------------------------------------------- how far data has come


def received(session):
    """How far the session says that data has come, for each time it says so."""
    said = [each.received for each in written(session) if isinstance(each, pb.ServerFrame)]
    return [(each.bytes, each.probe) for each in said if each != pb.Received()]


def test_how_far_a_large_upload_has_come_is_said_as_it_comes(session):
    data = bytes(2 * CHUNK_BYTES)
    receive(session, reply=reply(announced(1, data), follow=False))
    written(session)
    bulk = deque([(1, [memoryview(data)], 0)])
    came = 0
    for _ in range(2):
        frame = frames.next_data(bulk)
        run(session.receive(frame))
        came += len(frame)
        assert received(session) == [(came, 0)]
    assert received(session) == []


def test_nothing_is_said_of_little(session):
    receive(session, reply=reply(announced(1, bytes(1000))))
    written(session)
    send_data(session, 1, bytes(1000))
    assert received(session) == []


def test_questions_are_answered_at_once_and_many_of_them_with_one_frame(session):
    for number in range(1, 1001):
        receive(session, probe=pb.Probe(number=number))
    assert received(session) == [(0, 1000)]


def test_a_new_stream_is_counted_from_its_beginning(session):
    data = bytes(4 * CHUNK_BYTES)
    receive(session, reply=reply(announced(1, data), follow=False))
    send_data(session, 1, data[:CHUNK_BYTES])
    session.greet(pb.Welcome(), pb.Hello(assignments=[1]))
    assert received(session) == []
    receive(session, probe=pb.Probe(number=1))
    assert received(session) == [(0, 1)]
