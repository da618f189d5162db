from __future__ import annotations

from fedkube_server.quorum import Quorum


def test_as_many_answers_as_are_wanted_close_the_phase():
    quorum = Quorum(2, None)
    assert quorum.asked([1, 2, 3, 4]) == []
    assert quorum.settled(1, True) == []
    assert quorum.settled(2, False) == [], "a failure is no answer"
    assert quorum.settled(3, True) == [4]
    assert quorum.settled(4, False) == [], "each is taken back once"
    assert quorum.asked([5]) == [5], "what is sent later is too late"


def test_without_a_number_all_are_waited_for():
    quorum = Quorum(None, None)
    assert quorum.asked([1, 2]) == []
    assert quorum.settled(1, True) == []
    assert quorum.left() is None


def test_the_deadline_is_the_phases_and_not_each_messages():
    now = [100.0]
    quorum = Quorum(None, 60.0, lambda: now[0])
    now[0] = 150.0
    assert quorum.left() == 10.0
    now[0] = 200.0
    assert quorum.left() == 0.0


def test_late_updates_are_answers_too():
    quorum = Quorum(2, None)
    assert quorum.asked([1, 2, 3]) == []
    assert quorum.late() == []
    assert quorum.wants
    assert quorum.settled(1, True) == [2, 3]
    assert not quorum.wants
    assert quorum.late() == []


def test_what_was_there_before_may_be_enough():
    quorum = Quorum(2, None)
    assert quorum.late(2) == []
    assert quorum.asked([1, 2]) == [1, 2]


def test_where_any_number_will_do_one_is_wanted():
    quorum = Quorum(None, 60.0)
    assert quorum.asked([1]) == []
    assert quorum.settled(1, False) == []
    assert quorum.wants
    assert quorum.late() == []
    assert not quorum.wants
