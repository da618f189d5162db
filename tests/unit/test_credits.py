from __future__ import annotations

import pytest
from fedkube_server.credits import Credits


@pytest.fixture
def granted():
    return []


@pytest.fixture
def ask(granted):
    credits = Credits(limit=2)

    def ask(*keys):
        for key in keys:
            credits.ask(key, lambda key=key: granted.append(key))
        return credits

    return ask


def test_so_many_at_a_time_and_first_come_first_served(ask, granted):
    credits = ask("a", "b", "c", "d")
    assert granted == ["a", "b"]
    credits.release("b")
    assert granted == ["a", "b", "c"]
    credits.release("a")
    credits.release("c")
    assert granted == ["a", "b", "c", "d"]


def test_giving_back_twice_is_giving_back_once(ask, granted):
    credits = ask("a", "b", "c", "d")
    credits.release("a")
    credits.release("a")
    assert granted == ["a", "b", "c"]


def test_so_many_that_are_moderate_do_not_count(granted):
    credits = Credits(limit=1, moderates=2)
    for key in "abcde":
        credits.ask(key, lambda key=key: granted.append(key))
    credits.moderate("c")
    assert granted == ["a"], "it has no credit that could be used again"
    credits.moderate("a")
    credits.moderate("a")
    credits.moderate("b")
    credits.moderate("c")
    assert granted == ["a", "b", "c"], "and the third counts"
    credits.release("a")
    assert granted == ["a", "b", "c"], "it did not count"
    credits.moderate("c")
    assert granted == ["a", "b", "c", "d"]
    credits.release("d")
    credits.release("d")
    assert granted == ["a", "b", "c", "d", "e"]


def test_who_is_gone_waits_no_longer(ask, granted):
    credits = ask("a", "b", "c", "d")
    credits.release("c")
    assert granted == ["a", "b"]
    credits.release("a")
    assert granted == ["a", "b", "d"]
