from __future__ import annotations

import itertools

import pytest

from fedkube.core.tasks import (
    TABLE,
    Assign,
    Dispatcher,
    Revoke,
    Settle,
    TaskEvent,
    TaskState,
    _Task,
)

# Written down a second time on purpose: a change of the table must be a change of this, too.
MOVES = {
    ("queued", "assign"): "running",
    ("queued", "withdraw"): "withdrawn",
    ("running", "answer"): "answered",
    ("running", "fail"): "failed",
    ("running", "lose"): "queued",
    ("running", "give up"): "failed",
    ("running", "withdraw"): "withdrawn",
}


@pytest.fixture
def dispatcher():
    dispatcher = Dispatcher(max_attempts=3)
    yield dispatcher
    dispatcher.check()


def working(dispatcher, *tasks, sessions=("a",)):
    """A dispatcher whose sessions are ready and which was given the tasks."""
    effects = []
    for session in sessions:
        dispatcher.join(session)
        dispatcher.ready(session)
    effects += dispatcher.submit(tasks)
    return effects


def test_the_table_is_the_one_that_is_documented():
    assert TABLE == MOVES


@pytest.mark.parametrize(("state", "event"), list(itertools.product(TaskState, TaskEvent)))
def test_a_task_moves_as_the_table_says_and_not_otherwise(state, event):
    task = _Task(1, 1, state)
    if (state, event) in MOVES:
        task.move(event)
        assert task.state == MOVES[state, event]
    else:
        with pytest.raises(LookupError, match=str(event)):
            task.move(event)
        assert task.state is state


def test_an_illegal_move_tells_the_tasks_story():
    with pytest.raises(LookupError, match=r"answer does not fit .*client=5.*queued"):
        _Task(1, 5).move(TaskEvent.ANSWER)


# ------------------------------------------------------------- one example for each entry


def test_queued_and_assigned(dispatcher):
    assert working(dispatcher, (1, 10)) == [Assign("a", 1, 1)]
    assert (dispatcher.queued, dispatcher.running) == (0, 1)
    assert dispatcher.holds("a", 1, 1)


def test_queued_and_withdrawn(dispatcher):
    dispatcher.submit([(1, 10)])
    assert dispatcher.withdraw([1], "too late") == [Settle(1, TaskState.WITHDRAWN, "too late")]
    assert dispatcher.queued == 0


def test_running_and_answered(dispatcher):
    working(dispatcher, (1, 10))
    assert dispatcher.answer("a", 1, 1) == [Settle(1, TaskState.ANSWERED)]
    assert dispatcher.answer("a", 1, 1) == [], "a repeated reply is ignored"


def test_running_and_failed(dispatcher):
    working(dispatcher, (1, 10))
    effects = dispatcher.fail("a", 1, 1, "it raised", retry=False)
    assert effects == [Settle(1, TaskState.FAILED, "it raised")]


def test_running_and_lost_goes_to_the_front_of_the_queue(dispatcher):
    working(dispatcher, (1, 10), (2, 11), (3, 12))
    assert dispatcher.leave("a", "gone") == []
    assert dispatcher.queued == 3
    dispatcher.join("b")
    assert dispatcher.ready("b") == [Assign("b", 1, 2)]


def test_running_and_given_up(dispatcher):
    working(dispatcher, (1, 10))
    for attempt in (1, 2):
        assert dispatcher.fail("a", 1, attempt, "killed", retry=True) == []
        assert dispatcher.ready("a") == [Assign("a", 1, attempt + 1)]
    assert dispatcher.fail("a", 1, 3, "killed", retry=True) == [
        Settle(1, TaskState.FAILED, "killed (given up after 3 tries)")
    ]


def test_running_and_withdrawn(dispatcher):
    working(dispatcher, (1, 10))
    assert dispatcher.withdraw([1], "timeout") == [
        Revoke("a", 1, 1),
        Settle(1, TaskState.WITHDRAWN, "timeout"),
    ]


# ------------------------------------------------------------- what follows from the rules


def test_one_try_is_written_in_the_singular():
    dispatcher = Dispatcher(max_attempts=1)
    working(dispatcher, (1, 10))
    (settled,) = dispatcher.leave("a", "lost")
    assert settled.reason == "lost (given up after 1 try)"


def test_tasks_are_served_in_the_order_of_submission(dispatcher):
    effects = working(dispatcher, (1, 10), (2, 11), (3, 12), sessions=("a", "b"))
    assert effects == [Assign("a", 1, 1), Assign("b", 2, 1)]
    assert dispatcher.answer("b", 2, 1) == [Settle(2, TaskState.ANSWERED)]
    assert dispatcher.ready("b") == [Assign("b", 3, 1)]


def test_a_busy_clients_next_task_waits_and_others_pass_it(dispatcher):
    effects = working(dispatcher, (1, 10), (2, 10), (3, 11), sessions=("a", "b"))
    assert effects == [Assign("a", 1, 1), Assign("b", 3, 1)]
    dispatcher.answer("b", 3, 1)
    assert dispatcher.ready("b") == [], "client 10 is being served"
    assert dispatcher.answer("a", 1, 1) == [Settle(1, TaskState.ANSWERED), Assign("b", 2, 1)]


def test_a_worker_that_joined_is_given_nothing_before_it_is_ready(dispatcher):
    dispatcher.submit([(1, 10)])
    assert dispatcher.join("a") == []
    assert dispatcher.ready("a") == [Assign("a", 1, 1)]


def test_ready_of_an_unknown_session_is_ignored(dispatcher):
    dispatcher.submit([(1, 10)])
    assert dispatcher.ready("stranger") == []


def test_saying_ready_twice_gives_one_task(dispatcher):
    dispatcher.join("a")
    dispatcher.ready("a")
    dispatcher.ready("a")
    assert dispatcher.submit([(1, 10), (2, 11)]) == [Assign("a", 1, 1)]


def test_ready_while_holding_loses_the_task_that_was_held(dispatcher):
    working(dispatcher, (1, 10))
    assert dispatcher.ready("a") == [Assign("a", 1, 2)]
    assert not dispatcher.holds("a", 1, 1)


@pytest.mark.parametrize(
    ("session", "task", "attempt"), [("b", 1, 1), ("a", 2, 1), ("a", 1, 2), ("a", 1, 0)]
)
def test_a_reply_from_elsewhere_does_not_count(dispatcher, session, task, attempt):
    working(dispatcher, (1, 10), sessions=("a", "b"))
    assert not dispatcher.holds(session, task, attempt)
    assert dispatcher.answer(session, task, attempt) == []
    assert dispatcher.fail(session, task, attempt, "x", retry=False) == []
    assert dispatcher.fail(session, task, attempt, "x", retry=True) == []
    assert dispatcher.holds("a", 1, 1)


def test_a_worker_that_comes_back_under_its_name_cannot_answer_for_its_past(dispatcher):
    working(dispatcher, (1, 10))
    dispatcher.leave("a", "reset")
    dispatcher.join("a")
    assert dispatcher.ready("a") == [Assign("a", 1, 2)]
    assert dispatcher.answer("a", 1, 1) == []
    assert dispatcher.answer("a", 1, 2) == [Settle(1, TaskState.ANSWERED)]


def test_a_withdrawn_tasks_client_is_free_at_once_and_its_worker_when_it_says_so(dispatcher):
    working(dispatcher, (1, 10), (2, 10), sessions=("a", "b"))
    assert dispatcher.withdraw([1], "late")[-1] == Assign("b", 2, 1)
    assert dispatcher.submit([(3, 11)]) == [], "worker a has not said that it is free"
    assert dispatcher.ready("a") == [Assign("a", 3, 1)]


def test_withdrawing_what_is_over_or_unknown_does_nothing(dispatcher):
    working(dispatcher, (1, 10))
    dispatcher.answer("a", 1, 1)
    assert dispatcher.withdraw([1, 99], "late") == []


def test_leaving_twice_is_leaving_once(dispatcher):
    working(dispatcher, (1, 10))
    dispatcher.leave("a", "gone")
    assert dispatcher.leave("a", "gone") == []
    assert dispatcher.sessions == 0
    assert dispatcher.queued == 1


def test_a_lost_workers_task_goes_to_a_free_worker_at_once(dispatcher):
    working(dispatcher, (1, 10), sessions=("a", "b"))
    assert dispatcher.leave("a", "gone") == [Assign("b", 1, 2)]


def test_a_task_number_is_used_once(dispatcher):
    dispatcher.submit([(1, 10)])
    with pytest.raises(LookupError, match="submitted before"):
        dispatcher.submit([(1, 11)])
