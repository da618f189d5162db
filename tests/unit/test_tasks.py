from __future__ import annotations

import itertools

import pytest

from fedkube.core.tasks import (
    TABLE,
    Assign,
    Dispatcher,
    Flush,
    Kind,
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
    ("running", "hold"): "held",
    ("running", "answer"): "answered",
    ("running", "fail"): "failed",
    ("running", "lose"): "queued",
    ("running", "give up"): "failed",
    ("running", "withdraw"): "withdrawn",
    ("held", "answer"): "answered",
    ("held", "fail"): "failed",
    ("held", "lose"): "queued",
}

ONE = Kind("one at a time")
MANY = Kind("many at a time", most=100)
SUMS = Kind("summed", most=100, foldable=True)


@pytest.fixture
def dispatcher():
    dispatcher = Dispatcher(max_attempts=3)
    yield dispatcher
    dispatcher.check()


def submit(dispatcher, *tasks, kind=ONE):
    return dispatcher.submit([(task, client, kind) for task, client in tasks])


def free(dispatcher, *sessions):
    effects = []
    for session in sessions:
        dispatcher.join(session)
        effects += dispatcher.ready(session)
    return effects


def working(dispatcher, *tasks, sessions=("a",), kind=ONE):
    """A dispatcher whose sessions are ready and which was given the tasks."""
    return free(dispatcher, *sessions) + submit(dispatcher, *tasks, kind=kind)


def clients(count):
    """So many tasks, each for a client of its own."""
    return [(task, task + 100) for task in range(1, count + 1)]


def given(session, assignment, *tasks, hold=False):
    return Assign(session, assignment, tasks, hold)


def test_the_table_is_the_one_that_is_documented():
    assert TABLE == MOVES


@pytest.mark.parametrize(("state", "event"), list(itertools.product(TaskState, TaskEvent)))
def test_a_task_moves_as_the_table_says_and_not_otherwise(state, event):
    task = _Task(1, 1, ONE, state)
    if (state, event) in MOVES:
        task.move(event)
        assert task.state == MOVES[state, event]
    else:
        with pytest.raises(LookupError, match=str(event)):
            task.move(event)
        assert task.state is state


def test_an_illegal_move_tells_the_tasks_story():
    with pytest.raises(LookupError, match=r"answer does not fit .*client=5.*queued"):
        _Task(1, 5, ONE).move(TaskEvent.ANSWER)


# ------------------------------------------------------------- one example for each entry


def test_queued_and_assigned(dispatcher):
    assert working(dispatcher, (1, 10)) == [given("a", 1, 1)]
    assert (dispatcher.queued, dispatcher.running) == (0, 1)
    assert dispatcher.holds("a", 1, 1)


def test_queued_and_withdrawn(dispatcher):
    submit(dispatcher, (1, 10))
    assert dispatcher.withdraw([1], "too late") == [Settle(1, TaskState.WITHDRAWN, "too late")]
    assert dispatcher.queued == 0


def test_running_and_answered(dispatcher):
    working(dispatcher, (1, 10))
    assert dispatcher.answer(1) == [Settle(1, TaskState.ANSWERED)]
    assert not dispatcher.holds("a", 1, 1), "a repeated reply does not count"


def test_running_and_failed(dispatcher):
    working(dispatcher, (1, 10))
    effects = dispatcher.fail(1, "it raised", retry=False)
    assert effects == [Settle(1, TaskState.FAILED, "it raised")]


def test_running_and_lost_goes_to_the_front_of_the_queue(dispatcher):
    working(dispatcher, (1, 10), (2, 11), (3, 12))
    assert dispatcher.leave("a", "gone") == []
    assert dispatcher.queued == 3
    assert free(dispatcher, "b") == [given("b", 2, 1)]


def test_running_and_given_up(dispatcher):
    working(dispatcher, (1, 10))
    for attempt in (1, 2):
        assert dispatcher.fail(1, "killed", retry=True) == []
        assert dispatcher.ready("a") == [given("a", attempt + 1, 1)]
    assert dispatcher.fail(1, "killed", retry=True) == [
        Settle(1, TaskState.FAILED, "killed (given up after 3 tries)")
    ]


def test_running_and_withdrawn(dispatcher):
    working(dispatcher, (1, 10))
    assert dispatcher.withdraw([1], "timeout") == [
        Revoke("a", 1),
        Settle(1, TaskState.WITHDRAWN, "timeout"),
    ]


def test_running_and_held_and_answered(dispatcher):
    working(dispatcher, (1, 10), kind=SUMS)
    assert dispatcher.hold(1) == []
    assert dispatcher.held("a", 1)
    assert not dispatcher.holds("a", 1, 1), "its reply has come already"
    assert dispatcher.ready("a") == [Flush("a")]
    assert dispatcher.answer(1) == [Settle(1, TaskState.ANSWERED)]


def test_held_and_failed(dispatcher):
    working(dispatcher, (1, 10), kind=SUMS)
    dispatcher.hold(1)
    dispatcher.ready("a")
    assert dispatcher.fail(1, "NaN", retry=False) == [Settle(1, TaskState.FAILED, "NaN")]


def test_held_and_lost_costs_no_attempt(dispatcher):
    """Its client answered; that its worker died later is not its fault."""
    free(dispatcher, "a")
    submit(dispatcher, (1, 10), (2, 11), kind=SUMS)
    for session in ("b", "c", "d", "e", "f"):
        dispatcher.hold(1)
        previous = chr(ord(session) - 1)
        assert dispatcher.leave(previous, "killed") == []
        assert free(dispatcher, session)[0].tasks == (1,)
    assert dispatcher.queued == 1


# ------------------------------------------------------------- what follows from the rules


def test_one_try_is_written_in_the_singular():
    dispatcher = Dispatcher(max_attempts=1)
    working(dispatcher, (1, 10))
    (settled,) = dispatcher.leave("a", "lost")
    assert settled.reason == "lost (given up after 1 try)"


def test_tasks_are_served_in_the_order_of_submission(dispatcher):
    effects = working(dispatcher, (1, 10), (2, 11), (3, 12), sessions=("a", "b"))
    assert effects == [given("a", 1, 1), given("b", 2, 2)]
    assert dispatcher.answer(2) == [Settle(2, TaskState.ANSWERED)]
    assert dispatcher.ready("b") == [given("b", 3, 3)]


def test_a_busy_clients_next_task_waits_and_others_pass_it(dispatcher):
    effects = working(dispatcher, (1, 10), (2, 10), (3, 11), sessions=("a", "b"))
    assert effects == [given("a", 1, 1), given("b", 2, 3)]
    dispatcher.answer(3)
    assert dispatcher.ready("b") == [], "client 10 is being served"
    assert dispatcher.answer(1) == [Settle(1, TaskState.ANSWERED), given("b", 3, 2)]


def test_a_worker_that_joined_is_given_nothing_before_it_is_ready(dispatcher):
    submit(dispatcher, (1, 10))
    assert dispatcher.join("a") == []
    assert dispatcher.ready("a") == [given("a", 1, 1)]


def test_ready_of_an_unknown_session_is_ignored(dispatcher):
    submit(dispatcher, (1, 10))
    assert dispatcher.ready("stranger") == []


def test_saying_ready_twice_gives_one_task(dispatcher):
    dispatcher.join("a")
    dispatcher.ready("a")
    dispatcher.ready("a")
    assert submit(dispatcher, (1, 10), (2, 11)) == [given("a", 1, 1)]


def test_a_worker_may_take_the_next_while_its_reply_is_on_the_way(dispatcher):
    working(dispatcher, (1, 10), (2, 11))
    assert dispatcher.ready("a") == [given("a", 2, 2)]
    assert dispatcher.holds("a", 1, 1)
    assert dispatcher.leave("a", "gone") == []
    assert dispatcher.queued == 2


@pytest.mark.parametrize(
    ("session", "assignment", "task"), [("b", 1, 1), ("a", 1, 2), ("a", 2, 1), ("a", 0, 1)]
)
def test_a_reply_from_elsewhere_does_not_count(dispatcher, session, assignment, task):
    working(dispatcher, (1, 10), sessions=("a", "b"))
    assert not dispatcher.holds(session, assignment, task)
    assert dispatcher.holds("a", 1, 1)


def test_a_worker_that_comes_back_under_its_name_cannot_answer_for_its_past(dispatcher):
    working(dispatcher, (1, 10))
    dispatcher.leave("a", "reset")
    assert free(dispatcher, "a") == [given("a", 2, 1)]
    assert not dispatcher.holds("a", 1, 1)
    assert dispatcher.holds("a", 2, 1)


def test_a_withdrawn_tasks_client_is_free_at_once_and_its_worker_when_it_says_so(dispatcher):
    working(dispatcher, (1, 10), (2, 10), sessions=("a", "b"))
    assert dispatcher.withdraw([1], "late")[-1] == given("b", 2, 2)
    assert submit(dispatcher, (3, 11)) == [], "worker a has not said that it is free"
    assert dispatcher.ready("a") == [given("a", 3, 3)]


def test_withdrawing_what_is_over_or_unknown_does_nothing(dispatcher):
    working(dispatcher, (1, 10))
    dispatcher.answer(1)
    assert dispatcher.withdraw([1, 99], "late") == []


def test_leaving_twice_is_leaving_once(dispatcher):
    working(dispatcher, (1, 10))
    dispatcher.leave("a", "gone")
    assert dispatcher.leave("a", "gone") == []
    assert dispatcher.sessions == 0
    assert dispatcher.queued == 1


def test_a_lost_workers_task_goes_to_a_free_worker_at_once(dispatcher):
    working(dispatcher, (1, 10), sessions=("a", "b"))
    assert dispatcher.leave("a", "gone") == [given("b", 2, 1)]


def test_a_task_number_is_used_once(dispatcher):
    submit(dispatcher, (1, 10))
    with pytest.raises(LookupError, match="submitted before"):
        submit(dispatcher, (1, 11))


# ------------------------------------------------------------- several at a time


def test_short_tasks_are_given_together_and_something_is_left_for_the_others(dispatcher):
    """Half of a worker's share at a time, so that the last assignments are small."""
    effects = working(dispatcher, *clients(16), sessions=("a", "b"), kind=MANY)
    assert [len(each.tasks) for each in effects] == [4, 3]
    assert effects[0].tasks == (1, 2, 3, 4)


def test_no_more_than_the_kind_allows(dispatcher):
    (assign,) = working(dispatcher, *clients(40), kind=Kind("k", most=3))
    assert assign.tasks == (1, 2, 3)


def test_no_more_than_are_worth_it():
    dispatcher = Dispatcher(batch=lambda kind: 2)
    (assign,) = working(dispatcher, *clients(40), kind=MANY)
    assert assign.tasks == (1, 2)


@pytest.mark.parametrize(
    ("waiting", "sizes"),
    [(10, [5, 5]), (9, [5, 4]), (1, [1]), (24, [6, 6])],  # 24: more than is worth it, as before
)
def test_what_is_little_work_is_divided_between_those_that_are_free(waiting, sizes):
    dispatcher = Dispatcher(least=lambda kind: 6)
    free(dispatcher, "a", "b")
    effects = submit(dispatcher, *clients(waiting), kind=MANY)
    assert [len(each.tasks) for each in effects] == sizes


def test_what_is_little_work_is_not_left_to_those_that_are_busy():
    dispatcher = Dispatcher(least=lambda kind: 6)
    free(dispatcher, "a", "b")
    first, second = submit(dispatcher, *clients(17), kind=MANY)
    assert (len(first.tasks), len(second.tasks)) == (6, 6)
    for task in first.tasks:
        dispatcher.answer(task)
    (assign,) = dispatcher.ready("a")
    assert len(assign.tasks) == 5


def test_different_messages_are_different_assignments(dispatcher):
    submit(dispatcher, (1, 10), (2, 11), kind=MANY)
    submit(dispatcher, *[(task, task) for task in range(3, 20)], kind=SUMS)
    assert free(dispatcher, "a")[0].tasks == (1, 2)


def test_a_client_is_not_twice_in_an_assignment(dispatcher):
    (assign,) = working(dispatcher, *[(task, task % 2) for task in range(10)], kind=MANY)
    assert assign.tasks == (0, 1)


def test_a_call_that_was_not_begun_is_no_attempt(dispatcher):
    working(dispatcher, *clients(6), kind=MANY)
    for _ in range(10):
        effects = [*dispatcher.postpone(2), *dispatcher.postpone(3), *dispatcher.postpone(1)]
        assert effects == []
        (assign,) = dispatcher.ready("a")
        assert assign.tasks == (1, 3, 2)
    dispatcher.answer(1)


def test_what_a_worker_has_lost_in_a_cut_is_given_again_and_the_rest_stays(dispatcher):
    working(dispatcher, *clients(4), kind=MANY)
    assert dispatcher.holds("a", 1, 1)
    assert dispatcher.lose("a", [1, 99], "cut") == []
    assert not dispatcher.holds("a", 1, 1)
    assert dispatcher.holds("a", 1, 2)
    assert free(dispatcher, "b")[0].tasks[0] == 1


# ------------------------------------------------------------- updates that stay with a worker


def test_an_update_that_is_alone_is_sent_at_once(dispatcher):
    effects = working(dispatcher, (1, 10), (2, 11), sessions=("a", "b"), kind=SUMS)
    assert effects == [given("a", 1, 1), given("b", 2, 2)]


def test_where_there_is_more_to_do_updates_are_summed(dispatcher):
    effects = working(dispatcher, *clients(3), sessions=("a", "b"), kind=SUMS)
    assert effects == [given("a", 1, 1, hold=True), given("b", 2, 2, hold=True)]
    dispatcher.hold(1)
    assert dispatcher.ready("a") == [given("a", 3, 3, hold=True)], "it has a sum already"
    dispatcher.hold(2)
    assert dispatcher.ready("b") == [Flush("b")]
    dispatcher.hold(3)
    assert dispatcher.ready("a") == [Flush("a")]


def test_a_sum_is_asked_for_once(dispatcher):
    working(dispatcher, (1, 10), kind=SUMS)
    dispatcher.ready("a")
    assert dispatcher.hold(1) == [Flush("a")], "the worker said that it is free before"
    assert dispatcher.flush() == []


def test_an_update_in_a_sum_is_not_withdrawn(dispatcher):
    """Its client did its work in time."""
    working(dispatcher, *clients(3), kind=SUMS)
    dispatcher.hold(1)
    effects = dispatcher.withdraw([1, 2, 3], "late")
    assert {each.task for each in effects if isinstance(each, Settle)} == {2, 3}
    assert dispatcher.flush() == [Flush("a")]
    assert dispatcher.held("a", 1)
