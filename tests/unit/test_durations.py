"""How long calls take, learned from those that have ended."""

from __future__ import annotations

from fedkube_server.durations import Durations


def order(durations: Durations, *clients: int) -> list[int]:
    return durations.longest_first(clients, lambda client: ("train", client))


def test_as_long_as_nothing_is_known_the_order_is_the_apps() -> None:
    assert order(Durations(), 3, 1, 2) == [3, 1, 2]


def test_those_that_took_longest_are_first_and_equals_keep_their_order() -> None:
    durations = Durations()
    durations.note("train", [1], 5.0)
    durations.note("train", [2], 50.0)
    durations.note("train", [3, 4], 20.0)
    assert order(durations, 1, 2, 3, 4) == [2, 3, 4, 1]
    assert order(durations, 4, 3, 2, 1) == [2, 4, 3, 1]


def test_those_of_which_nothing_is_known_count_as_the_last_that_ended() -> None:
    durations = Durations()
    durations.note("train", [1], 50.0)
    durations.note("train", [2], 5.0)
    durations.note("train", [3], 20.0)
    assert order(durations, 1, 2, 9) == [1, 9, 2]


def test_the_newest_counts_more_than_any_before() -> None:
    durations = Durations()
    for seconds in (100.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        durations.note("train", [1], seconds)
    durations.note("train", [2], 10.0)
    assert order(durations, 1, 2) == [2, 1]


def test_short_calls_are_left_in_the_apps_order_and_take_no_memory() -> None:
    durations = Durations()
    durations.note("train", range(1_000_000), 0.01)
    assert durations.last("train") == 0.01
    assert order(durations, 3, 1, 2) == [3, 1, 2]
    assert not durations._of_clients


def test_other_messages_take_another_time() -> None:
    durations = Durations()
    durations.note("evaluate", [1], 50.0)
    durations.note("train", [2], 5.0)
    assert order(durations, 1, 2) == [1, 2]
    durations.note("train", [1], 2.0)
    assert order(durations, 1, 2) == [2, 1]
