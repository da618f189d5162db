from __future__ import annotations

import asyncio

import numpy as np
import pytest
from fedkube_server import driver as driver_module
from fedkube_server import states
from fedkube_server.blobs import BlobStore
from fedkube_server.calls import Answer, NewTask, Outgoing
from fedkube_server.driver import Driver
from fedkube_server.folds import Fold, sent_arrays
from fedkube_server.landing import Landed

from fedkube.core.errors import Rejected
from fedkube.core.tasks import Dispatcher, Kind
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.limits import HELD_S, RELAY_HELD_S
from fedkube.wire.tensors import digest


class FakeLoop:
    """Calls at once what is to be called soon; keeps what is to be called later."""

    def __init__(self):
        self.timers = []
        self.now = 1.0

    def time(self):
        return self.now

    def call_soon_threadsafe(self, callback, *arguments):
        callback(*arguments)

    def call_later(self, seconds, callback, *arguments):
        timer = Timer(seconds, lambda: callback(*arguments))
        self.timers.append(timer)
        return timer


class Timer:
    def __init__(self, seconds, fire):
        self.seconds = seconds
        self.fire = fire
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


class FakeSession:
    def __init__(self, name):
        self.name = name
        self.clients = None
        self.relays = False
        self.given = []
        self.cancelled = []
        self.flushed = 0
        self.silent = 0.0

    def silent_s(self):
        return self.silent

    def give(self, frame, blobs):
        self.given.append((frame, blobs))

    def cancel(self, calls):
        self.cancelled += calls

    def flush(self):
        self.flushed += 1


@pytest.fixture
def loop():
    return FakeLoop()


@pytest.fixture
def store():
    return BlobStore()


@pytest.fixture
def driver(loop, store):
    return Driver(loop, Dispatcher(2), lambda answer: states.keep(answer, store))


@pytest.fixture
def outcomes():
    return {}


@pytest.fixture
def submit(driver, outcomes):
    def submit(task, client=0, admit=lambda _: None, blobs=(), ttl=60.0, message=None):
        def settled(outcome):
            assert task not in outcomes, "settled twice"
            outcomes[task] = outcome

        sent = message or Outgoing(pb.Task(), list(blobs), Kind(task))
        driver.submit([NewTask(task, client, pb.Call(id=task), sent, admit, settled, ttl)])

    return submit


@pytest.fixture
def worker(driver):
    def connect(name="w"):
        session = FakeSession(name)
        driver.join(session)
        driver.ready(session)
        return session

    return connect


def answer(driver, session, task=1, assignment=1, blobs=(), **outcome):
    """Why the reply does not count, or an empty string."""
    outcome = pb.Outcome(call=task, **(outcome or {"content": pb.Content()}))
    reply = pb.Reply(assignment=assignment, outcomes=[outcome], blobs=blobs)
    landed = [Landed.known(memoryview(bytes(blob.nbytes))) for blob in blobs]
    refused = asyncio.run(driver.answered(session, reply, landed))
    return refused[0].reason if refused else ""


def failure(code, reason="why"):
    return {"failure": pb.Failure(code=code, reason=reason)}


def test_a_task_is_given_and_its_answer_settles_it(driver, submit, worker, outcomes, loop):
    session = worker()
    submit(1)
    ((frame, blobs),) = session.given
    assert (frame.assignment, [call.id for call in frame.calls], blobs) == (1, [1], [])
    assert answer(driver, session) == ""
    assert isinstance(outcomes[1], Answer)
    assert loop.timers[0].cancelled, "its time to live is of no interest any more"


def test_relays_are_told_from_workers(driver, worker):
    worker("w")
    relay = worker("r")
    relay.relays = True
    assert (driver.workers, driver.relays) == (2, 1)
    driver.leave(relay, "gone")
    assert (driver.workers, driver.relays) == (1, 0)


def test_a_reply_that_nobody_waits_for_does_not_count(driver, submit, worker, outcomes):
    session = worker()
    submit(1)
    assert answer(driver, session, task=7) == "nobody waits for this reply any more"
    assert answer(driver, session, assignment=2) == "nobody waits for this reply any more"
    assert answer(driver, FakeSession("w")) == "nobody waits for this reply any more"
    assert outcomes == {}


@pytest.mark.parametrize("code", [pb.Failure.APP_RAISED, pb.Failure.CRASHED, pb.Failure.TIMED_OUT])
def test_a_failure_of_the_app_is_not_tried_again(driver, submit, worker, outcomes, code):
    session = worker()
    submit(1)
    assert answer(driver, session, **failure(code)) == ""
    assert outcomes[1] == pb.Failure(code=code, reason="why")


def test_a_client_whose_process_was_killed_is_tried_again(driver, submit, worker, outcomes):
    session = worker()
    submit(1)
    answer(driver, session, **failure(pb.Failure.KILLED))
    assert outcomes == {}
    driver.ready(session)
    assert session.given[-1][0].assignment == 2
    answer(driver, session, assignment=2, **failure(pb.Failure.KILLED, "out of memory"))
    assert outcomes[1].code == pb.Failure.KILLED
    assert outcomes[1].reason == "out of memory (given up after 2 tries)"


def test_a_lost_workers_task_goes_to_another(driver, submit, worker, outcomes):
    first, second = worker("a"), worker("b")
    submit(1)
    driver.leave(first, "the worker was lost")
    assert [frame.assignment for frame, _ in second.given] == [2]
    driver.leave(second, "the worker was lost")
    assert outcomes[1].code == pb.Failure.LOST
    assert outcomes[1].reason == "the worker was lost (given up after 2 tries)"


def test_an_older_session_of_the_same_name_has_no_say(driver, submit, worker):
    old = worker("w")
    submit(1)
    driver.leave(old, "the worker connected again")
    new = worker("w")
    assert [frame.assignment for frame, _ in new.given] == [2]
    driver.leave(old, "late")
    driver.ready(old)
    assert answer(driver, old, assignment=2) == "nobody waits for this reply any more"
    assert answer(driver, new, assignment=2) == ""


def test_an_update_that_is_refused_says_why_at_both_ends(driver, submit, worker, outcomes):
    session = worker()
    submit(1, admit=lambda _: "it holds NaN")
    assert answer(driver, session) == "the update was refused: it holds NaN"
    assert outcomes[1].code == pb.Failure.REFUSED
    assert outcomes[1].reason == "the update was refused: it holds NaN"


def test_an_update_that_cannot_be_decoded_is_refused(driver, submit, worker, outcomes):
    def admit(_):
        raise Rejected("4 bytes came")

    session = worker()
    submit(1, admit=admit)
    assert answer(driver, session) == "the update was refused: 4 bytes came"
    assert outcomes[1].code == pb.Failure.REFUSED


def test_a_refused_update_leaves_the_clients_state_as_it_was(driver, submit, worker):
    session = worker()
    submit(1, admit=lambda _: "no")
    answer(driver, session, content=pb.Content(), state=_state(0), blobs=[_blob(b"new")])
    driver.ready(session)
    submit(2)
    assert not session.given[-1][0].calls[0].HasField("state")


def test_a_large_reply_is_checked_on_another_thread(driver, submit, worker, monkeypatch):
    monkeypatch.setattr(driver_module, "_INLINE_BYTES", 10)
    loops = []

    def admit(_):
        try:
            loops.append(asyncio.get_running_loop())
        except RuntimeError:
            loops.append(None)

    for task, size in ((1, 10), (2, 11)):
        session = worker(f"w{task}")
        submit(task, client=task, admit=admit)
        blob = pb.Blob(id=1, nbytes=size, digest=bytes(32))
        reply = {"assignment": task, "content": _state(0), "blobs": [blob]}
        assert answer(driver, session, task=task, **reply) == ""
    assert loops[0] is not None
    assert loops[1] is None


def test_a_task_that_is_withdrawn_while_its_reply_is_checked(driver, submit, worker, outcomes):
    def admit(_):
        driver.withdraw([1], pb.Failure.WITHDRAWN, "timeout")

    session = worker()
    submit(1, admit=admit)
    assert answer(driver, session) == "nobody waits for this reply any more"
    assert outcomes[1] == pb.Failure(code=pb.Failure.WITHDRAWN, reason="timeout")


def test_a_withdrawn_task_is_cancelled_at_its_worker(driver, submit, worker, outcomes):
    session = worker()
    submit(1)
    driver.withdraw([1, 99], pb.Failure.WITHDRAWN, "timeout")
    assert session.cancelled == [1]
    assert outcomes[1] == pb.Failure(code=pb.Failure.WITHDRAWN, reason="timeout")


def test_a_message_whose_time_runs_out_is_settled(driver, submit, outcomes, loop):
    submit(1, ttl=5.0)
    (timer,) = loop.timers
    assert timer.seconds == 5.0
    timer.fire()
    assert outcomes[1].code == pb.Failure.EXPIRED


def test_a_task_that_cannot_be_sent_has_failed_and_its_worker_is_free(
    driver, submit, worker, outcomes
):
    session = worker()
    real_give = session.give

    def give(frame, blobs):
        if frame.calls[0].id == 1:
            raise Rejected("too large")
        real_give(frame, blobs)

    session.give = give
    submit(1, client=1)
    assert outcomes[1] == pb.Failure(
        code=pb.Failure.REFUSED, reason="the message cannot be sent: too large"
    )
    submit(2, client=2)
    assert [frame.calls[0].id for frame, _ in session.given] == [2]


def test_a_check_that_fails_costs_the_reply_and_not_the_worker(driver, submit, worker, outcomes):
    def admit(_):
        raise KeyError("odd")

    session = worker()
    submit(1, admit=admit)
    assert "could not be checked: KeyError" in answer(driver, session)
    assert outcomes[1].code == pb.Failure.REFUSED


# ------------------------------------------------------------- updates that are summed


@pytest.fixture
def fold():
    return Fold({"w": (2,)}, "n", cohort=4)


@pytest.fixture
def summing(store, fold):
    """A message whose updates are summed."""
    content = _update([0.0, 0.0])[0].content
    blobs = [store.put(memoryview(np.zeros(2, "f4").tobytes()))]
    frame = pb.Task(content=content, fold=fold.spec(7))
    kind = Kind(7, most=9, foldable=True)
    return Outgoing(frame, blobs, kind, fold, sent_arrays(content, blobs))


def _update(values, weight=1, call=1):
    """An outcome, and what announces its bytes, and the bytes."""
    data = np.array(values, "f4").tobytes()
    content = pb.Content()
    item = content.records.add(name="a").arrays.items.add(name="w", dtype="float32", shape=[2])
    item.stype = "numpy.ndarray"
    content.records.add(name="m").metrics.items.add(key="n", integer=weight)
    return pb.Outcome(call=call, content=content), pb.Blob(nbytes=8, digest=digest(data)), data


def take(driver, session, assignment, *updates):
    reply = pb.Reply(assignment=assignment)
    landed = []
    for outcome, blob, data in updates:
        outcome.content.records[0].arrays.items[0].blob = len(landed)
        reply.outcomes.append(outcome)
        reply.blobs.append(blob)
        landed.append(Landed.known(memoryview(data)))
    return asyncio.run(driver.answered(session, reply, landed))


def test_updates_are_summed_and_the_mean_is_theirs(driver, submit, worker, outcomes, summing, fold):
    first, second = worker("a"), worker("b")
    submit(1, client=1, message=summing)
    submit(2, client=2, message=summing)
    assert not first.given[0][0].HasField("fold"), "each has one only"
    take(driver, first, 1, _update([1, 2], 1, call=1))
    take(driver, second, 2, _update([4, 8], 2, call=2))
    assert set(outcomes) == {1, 2}
    assert fold.mean()["w"].tolist() == [3.0, 6.0]


def test_an_update_that_is_refused_is_not_in_the_sum(
    driver, submit, worker, outcomes, summing, fold
):
    session = worker()
    submit(1, message=summing)
    (refused,) = take(driver, session, 1, _update([np.nan, 0]))
    assert "NaN" in refused.reason
    assert outcomes[1].code == pb.Failure.REFUSED
    assert fold.weights == []


def _hold(driver, session, *calls):
    outcomes = []
    for call in calls:
        outcome, _, _ = _update([0, 0], call=call)
        del outcome.content.records[0].arrays.items[:]
        outcome.content.records[0].arrays.held = True
        outcome.held = True
        outcomes.append(outcome)
    reply = pb.Reply(assignment=session.given[-1][0].assignment, outcomes=outcomes)
    return asyncio.run(driver.answered(session, reply, []))


def _sum(driver, session, *calls):
    update = pb.Sum(fold=7, calls=calls)
    update.tensors.add(name="w", dtype="float32", unchanged=range(len(calls)))
    driver.examine_sum(session, update)
    return asyncio.run(driver.summed(session, update, []))


def test_what_a_worker_holds_counts_when_its_sum_has_come(
    driver, submit, worker, outcomes, summing, fold
):
    session = worker()
    for task in (1, 2, 3):
        submit(task, client=task, message=summing)
    _hold(driver, session, 1)
    driver.ready(session)
    assert session.given[-1][0].HasField("fold")
    calls = [1, *[call.id for call in session.given[-1][0].calls]]
    _hold(driver, session, *calls[1:])
    assert outcomes == {}
    driver.ready(session)
    assert _sum(driver, session, *calls) == []
    assert set(outcomes) == set(calls)
    assert fold.weights == [1.0] * len(calls)


def test_a_lost_sum_counts_for_nothing_and_its_clients_are_asked_again(
    driver, submit, worker, outcomes, summing, fold
):
    first = worker("a")
    submit(1, client=1, message=summing)
    submit(2, client=2, message=summing)
    _hold(driver, first, 1)
    driver.leave(first, "lost")
    assert _sum(driver, first, 1)[0].reason == "nobody waits for this reply any more"
    second = worker("b")
    assert second.given[0][0].calls[0].id == 1
    assert (outcomes, fold.weights) == ({}, [])


def test_a_sum_with_calls_of_the_past_is_not_counted_and_the_others_are_made_again(
    driver, submit, worker, outcomes, summing, fold
):
    """A worker was away for too long, and has gone on adding to its sum."""
    session = worker()
    submit(1, client=1, message=summing)
    submit(2, client=2, message=summing)
    _hold(driver, session, 1)
    refused = asyncio.run(driver.summed(session, pb.Sum(fold=7, calls=[99, 1]), []))
    assert {each.call for each in refused} == {99, 1}
    assert (outcomes, fold.weights) == ({}, [])
    driver.ready(session)
    assert session.given[-1][0].calls[0].id == 1


def test_a_sum_with_one_call_twice_is_not_counted_and_all_of_it_is_made_again(
    driver, submit, worker, outcomes, summing, fold
):
    """A reply came too late to count and stayed in the sum, and the worker was asked again."""
    session = worker()
    for task in (1, 2, 3):
        submit(task, client=task, message=summing)
    _hold(driver, session, 1)
    driver.ready(session)
    _hold(driver, session, 2)
    refused = _sum(driver, session, 1, 2, 1)
    assert {each.call for each in refused} == {1, 2}
    assert (outcomes, fold.weights) == ({}, [])
    driver.ready(session)
    again = [call.id for call in session.given[-1][0].calls]
    assert again[0] == 1


def test_a_held_update_outlives_the_rounds_deadline(
    driver, submit, worker, outcomes, summing, fold
):
    session = worker()
    submit(1, client=1, message=summing)
    submit(2, client=2, message=summing)
    _hold(driver, session, 1)
    driver.withdraw([1, 2], pb.Failure.WITHDRAWN, "timeout")
    assert session.flushed == 1
    assert set(outcomes) == {2}
    _sum(driver, session, 1)
    assert isinstance(outcomes[1], Answer)


@pytest.mark.parametrize(("relays", "patience"), [(False, HELD_S), (True, RELAY_HELD_S)])
def test_a_worker_that_does_not_send_its_sum_is_not_waited_for(
    driver, submit, worker, outcomes, summing, fold, loop, relays, patience
):
    session = worker()
    session.relays = relays
    submit(1, client=1, message=summing)
    submit(2, client=2, message=summing)
    _hold(driver, session, 1)
    driver.withdraw([1, 2], pb.Failure.WITHDRAWN, "timeout")
    session.silent = patience - 1
    loop.timers[-1].fire()
    assert set(outcomes) == {2}
    session.silent = patience
    loop.timers[-1].fire()
    assert outcomes[1].reason == "timeout"
    assert _sum(driver, session, 1)[0].reason == "nobody waits for this reply any more"
    assert fold.weights == []
    count = len(loop.timers)
    loop.timers[-1].fire()
    assert len(loop.timers) == count, "nothing is looked at any more"


def test_an_update_that_is_lost_after_the_rounds_end_is_not_made_again(
    driver, submit, worker, outcomes, summing, loop
):
    session = worker("a")
    submit(1, client=1, message=summing)
    submit(2, client=2, message=summing)
    _hold(driver, session, 1)
    driver.withdraw([1, 2], pb.Failure.WITHDRAWN, "timeout")
    driver.leave(session, "lost")
    loop.timers[-1].fire()
    assert outcomes[1].reason == "timeout"
    assert worker("b").given == []


# ------------------------------------------------------------- phases that are closed without some


def test_a_phase_is_closed_without_those_that_clients_are_at(
    driver, worker, outcomes, summing, fold
):
    session, left = worker(), {}

    def task(number):
        def settled(outcome):
            outcomes[number] = outcome

        call, admit = pb.Call(id=number), lambda _: None
        return NewTask(
            *(number, number, call, summing, admit, settled, 60.0),
            left=lambda failure: left.setdefault(number, failure),
        )

    driver.submit([task(1), task(2)])
    ((frame, _),) = session.given
    (running,) = (call.id for call in frame.calls)
    waiting = 3 - running
    driver.leave_behind([1, 2], pb.Failure.WITHDRAWN, "enough")
    assert left == {running: pb.Failure(code=pb.Failure.WITHDRAWN, reason="enough")}
    assert list(outcomes) == [waiting], "nobody has begun with it"
    assert session.cancelled == []
    assert take(driver, session, 1, _update([1.0, 2.0], call=running)) == []
    assert outcomes[running].digests, "what came of it is told"
    assert fold.weights == [], "and is in no sum"
    driver.leave_behind([1, 2], pb.Failure.WITHDRAWN, "enough")
    assert len(left) == 1, "what is over is left alone"


# ------------------------------------------------------------- a client's state


def _blob(data):
    return pb.Blob(id=1, nbytes=len(data), digest=bytes(32))


def _state(blob):
    items = [pb.Array(name="s", blob=blob)]
    return pb.Content(records=[pb.Record(name="r", arrays=pb.Arrays(items=items))])


def test_a_clients_state_comes_with_its_next_task_after_the_messages_blobs(
    driver, submit, worker, store
):
    session = worker()
    model = store.put(memoryview(b"model"))
    submit(1, client=4)
    answer(driver, session, content=pb.Content(), state=_state(0), blobs=[_blob(b"s")])
    driver.ready(session)
    submit(2, client=4, blobs=[model])
    frame, blobs = session.given[-1]
    assert [bytes(blob.data) for blob in blobs] == [b"model", bytes(1)]
    assert frame.calls[0].state.records[0].arrays.items[0].blob == 1


def test_other_clients_do_not_see_it(driver, submit, worker):
    session = worker()
    submit(1, client=4)
    answer(driver, session, content=pb.Content(), state=_state(0), blobs=[_blob(b"s")])
    driver.ready(session)
    submit(2, client=5)
    assert not session.given[-1][0].calls[0].HasField("state")


def test_a_failure_leaves_the_clients_state_as_it_was(driver, submit, worker):
    session = worker()
    submit(1, client=4)
    answer(driver, session, content=pb.Content(), state=_state(0), blobs=[_blob(b"s")])
    driver.ready(session)
    submit(2, client=4)
    answer(driver, session, task=2, assignment=2, **failure(pb.Failure.APP_RAISED))
    driver.ready(session)
    submit(3, client=4)
    assert session.given[-1][0].calls[0].state == _state(0)


def test_a_state_that_cannot_be_kept_does_not_break_the_server(driver, submit, worker, outcomes):
    """The state refers to a blob that did not come: the reply does not count."""
    session = worker()
    submit(1)
    refused = answer(driver, session, content=pb.Content(), state=_state(7))
    assert "which did not come" in refused
    assert outcomes[1].code == pb.Failure.REFUSED


def test_the_blobs_that_a_reply_may_refer_to(driver, submit, worker, store):
    session = worker()
    model = store.put(memoryview(b"model"))
    submit(1, blobs=[model])
    outcome = pb.Outcome(call=1, content=_state(3))
    reply = pb.Reply(
        assignment=1, outcomes=[outcome], blobs=[pb.Blob(id=each) for each in range(4)]
    )
    examined = driver.examine(session, reply)
    assert (examined.known, examined.wanted) == ({model.digest: model}, {3})
    reply.assignment = 2
    examined = driver.examine(session, reply)
    assert (examined.known, examined.wanted) == ({}, set()), "nobody waits for it"


def test_what_is_so_now(driver, submit, worker):
    worker("a"), worker("b")
    submit(1, client=1)
    assert (driver.workers, driver.running) == (2, 1)


def test_clients_that_took_longest_are_served_first(driver, worker, outcomes):
    message = Outgoing(pb.Task(), [], Kind("a round", pace="train"))

    def task(number, client):
        settled = lambda ending: outcomes.update({number: ending})  # noqa: E731
        return NewTask(number, client, pb.Call(id=number), message, lambda _: None, settled, 60.0)

    def serve(seconds):
        given = session.given[-1][0]
        reply = pb.Reply(assignment=given.assignment, seconds=seconds)
        reply.outcomes.add(call=given.calls[0].id, content=pb.Content())
        asyncio.run(driver.answered(session, reply, []))
        driver.ready(session)
        return given.calls[0].id

    session = worker()
    driver.submit([task(1, 1), task(2, 2), task(3, 3)])
    assert [serve(seconds) for seconds in (2.0, 9.0, 5.0)] == [1, 2, 3]
    driver.submit([task(11, 1), task(12, 2), task(13, 3)])
    assert [serve(1.0) for _ in range(3)] == [12, 13, 11]


@pytest.mark.parametrize(
    ("seconds", "closes", "sizes"),
    [(0.001, False, [4, 4]), (0.001, True, [2, 2]), (1.0, False, [1, 1])],
)
def test_calls_that_are_little_work_are_divided_between_the_workers(
    driver, worker, seconds, closes, sizes
):
    """Where not all may be waited for, one that hangs should hold up few."""
    kind = Kind("a round", pace="train", most=100, closes=closes)
    message = Outgoing(pb.Task(), [], kind)

    def task(number):
        ignore = lambda _: None  # noqa: E731
        return NewTask(number, number, pb.Call(id=number), message, ignore, ignore, 60.0)

    first = worker("a")
    driver.submit([task(100)])
    reply = pb.Reply(assignment=first.given[-1][0].assignment, seconds=seconds)
    reply.outcomes.add(call=100, content=pb.Content())
    asyncio.run(driver.answered(first, reply, []))
    driver.ready(first)
    second = worker("b")
    driver.submit([task(number) for number in range(8)])
    assert [len(each.given[-1][0].calls) for each in (first, second)] == sizes


# ----------------------------------------------------------------- calls that take long


@pytest.fixture
def raced(driver, submit, worker, loop):
    """Two workers that both have task 9: the first because of its turn, and it takes long."""
    driver.speculates = True
    slow = worker("slow")
    for task in (1, 2, 3):
        submit(task)
        answer(driver, slow, task=task, assignment=task)
        driver.ready(slow)
    fast = worker("fast")
    submit(9)
    loop.now += 5.0
    loop.timers[1].fire()
    assert [each.given[-1][0].assignment for each in (slow, fast)] == [4, 5]
    return slow, fast


def test_the_first_answer_counts_and_a_late_one_is_refused(driver, raced, outcomes):
    slow, fast = raced
    assert answer(driver, fast, task=9, assignment=5) == ""
    assert isinstance(outcomes[9], Answer)
    assert (slow.cancelled, fast.cancelled) == ([9], [])
    assert answer(driver, slow, task=9, assignment=4) == "nobody waits for this reply any more"


def test_the_slow_one_may_still_be_the_first(driver, raced, outcomes):
    slow, fast = raced
    assert answer(driver, slow, task=9, assignment=4) == ""
    assert (slow.cancelled, fast.cancelled) == ([], [9])
    assert answer(driver, fast, task=9, assignment=5) == "nobody waits for this reply any more"


@pytest.mark.parametrize("broken", [0, 1])
def test_one_of_two_that_fails_leaves_the_call_to_the_other(driver, raced, outcomes, broken):
    answer(driver, raced[broken], task=9, assignment=4 + broken, **failure(pb.Failure.CRASHED))
    assert 9 not in outcomes
    other = 1 - broken
    answer(driver, raced[other], task=9, assignment=4 + other, **failure(pb.Failure.CRASHED))
    assert outcomes[9].code == pb.Failure.CRASHED


def test_nothing_is_done_twice_unless_the_run_says_so(driver, submit, worker, loop):
    worker("slow")
    worker("idle")
    submit(1)
    assert len(loop.timers) == 1, "the message's time to live, and nothing else"
