from __future__ import annotations

import asyncio

import pytest
from fedkube_server import driver as driver_module
from fedkube_server import states
from fedkube_server.blobs import BlobStore
from fedkube_server.driver import Answer, Driver, NewTask

from fedkube.core.errors import Rejected
from fedkube.core.tasks import Dispatcher
from fedkube.proto.v1 import exchange_pb2 as pb


class FakeLoop:
    """Calls at once what is to be called soon; keeps what is to be called later."""

    def __init__(self):
        self.timers = []

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
        self.given = []
        self.cancelled = []

    def give(self, frame, blobs):
        self.given.append((frame, blobs))

    def cancel(self, task, attempt):
        self.cancelled.append((task, attempt))


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
    def submit(task, client=0, admit=lambda _: None, blobs=(), ttl=60.0):
        def settled(outcome):
            assert task not in outcomes, "settled twice"
            outcomes[task] = outcome

        frame = pb.Task(id=task)
        driver.submit([NewTask(task, client, frame, list(blobs), admit, settled, ttl)])

    return submit


@pytest.fixture
def worker(driver):
    def connect(name="w"):
        session = FakeSession(name)
        driver.join(session)
        driver.ready(session)
        return session

    return connect


def answer(driver, session, task=1, attempt=1, **reply):
    reply = pb.Reply(task=task, attempt=attempt, **(reply or {"content": pb.Content()}))
    blobs = [memoryview(bytes(blob.nbytes)) for blob in reply.blobs]
    return asyncio.run(driver.answered(session, Answer(reply, blobs)))


def failure(code, reason="why"):
    return {"failure": pb.Failure(code=code, reason=reason)}


def test_a_task_is_given_and_its_answer_settles_it(driver, submit, worker, outcomes, loop):
    session = worker()
    submit(1)
    ((frame, blobs),) = session.given
    assert (frame.id, frame.attempt, blobs) == (1, 1, [])
    assert answer(driver, session) == ""
    assert isinstance(outcomes[1], Answer)
    assert loop.timers[0].cancelled


def test_a_reply_that_nobody_waits_for_does_not_count(driver, submit, worker, outcomes):
    session = worker()
    submit(1)
    assert answer(driver, session, task=7) == "nobody waits for this reply any more"
    assert answer(driver, session, attempt=2) == "nobody waits for this reply any more"
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
    assert session.given[-1][0].attempt == 2
    answer(driver, session, attempt=2, **failure(pb.Failure.KILLED, "out of memory"))
    assert outcomes[1].code == pb.Failure.KILLED
    assert outcomes[1].reason == "out of memory (given up after 2 tries)"


def test_a_lost_workers_task_goes_to_another(driver, submit, worker, outcomes):
    first, second = worker("a"), worker("b")
    submit(1)
    driver.leave(first, "the worker was lost")
    assert [frame.attempt for frame, _ in second.given] == [2]
    driver.leave(second, "the worker was lost")
    assert outcomes[1].code == pb.Failure.LOST
    assert outcomes[1].reason == "the worker was lost (given up after 2 tries)"


def test_an_older_session_of_the_same_name_has_no_say(driver, submit, worker):
    old = worker("w")
    submit(1)
    driver.leave(old, "the worker connected again")
    new = worker("w")
    assert [frame.attempt for frame, _ in new.given] == [2]
    driver.leave(old, "late")
    driver.ready(old)
    assert answer(driver, old, attempt=2) == "nobody waits for this reply any more"
    assert answer(driver, new, attempt=2) == ""


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
    assert not session.given[-1][0].HasField("state")


def test_a_large_reply_is_checked_on_another_thread(driver, submit, worker, monkeypatch):
    monkeypatch.setattr(driver_module, "_CHECK_INLINE_BYTES", 10)
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
        assert answer(driver, session, task=task, content=pb.Content(), blobs=[blob]) == ""
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
    assert session.cancelled == [(1, 1)]
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
        if frame.id == 1:
            raise Rejected("too large")
        real_give(frame, blobs)

    session.give = give
    submit(1, client=1)
    assert outcomes[1] == pb.Failure(
        code=pb.Failure.REFUSED, reason="the message cannot be sent: too large"
    )
    submit(2, client=2)
    assert [frame.id for frame, _ in session.given] == [2]


def test_a_check_that_fails_costs_the_reply_and_not_the_worker(driver, submit, worker, outcomes):
    def admit(_):
        raise KeyError("odd")

    session = worker()
    submit(1, admit=admit)
    assert "could not be checked: KeyError" in answer(driver, session)
    assert outcomes[1].code == pb.Failure.REFUSED


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
    assert frame.state.records[0].arrays.items[0].blob == 1


def test_other_clients_do_not_see_it(driver, submit, worker):
    session = worker()
    submit(1, client=4)
    answer(driver, session, content=pb.Content(), state=_state(0), blobs=[_blob(b"s")])
    driver.ready(session)
    submit(2, client=5)
    assert not session.given[-1][0].HasField("state")


def test_a_failure_leaves_the_clients_state_as_it_was(driver, submit, worker):
    session = worker()
    submit(1, client=4)
    answer(driver, session, content=pb.Content(), state=_state(0), blobs=[_blob(b"s")])
    driver.ready(session)
    submit(2, client=4)
    answer(driver, session, task=2, **failure(pb.Failure.APP_RAISED))
    driver.ready(session)
    submit(3, client=4)
    assert session.given[-1][0].state == _state(0)


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
    reply = pb.Reply(task=1, attempt=1)
    assert driver.blobs_of(session, reply) == {model.digest: model}
    assert driver.blobs_of(session, pb.Reply(task=1, attempt=2)) is None


def test_what_is_so_now(driver, submit, worker):
    worker("a"), worker("b")
    submit(1, client=1)
    assert (driver.workers, driver.running) == (2, 1)
