from __future__ import annotations

import threading
import time

import pytest
from fedkube_server.halt import Ending, Halt, Halted
from fedkube_server.seats import Seats

from fedkube.core.errors import Rejected
from fedkube.core.run_states import RunEvent


def test_anybody_of_a_pool_may_serve_any_client():
    assert Seats((), None, Halt()).clients_of("pool", "pool.a") is None


def test_a_site_serves_its_own_client():
    seats = Seats(("north", "south"), None, Halt())
    assert seats.clients_of("south", "south") == {1}


@pytest.mark.parametrize(
    ("certified", "worker"), [("pool", "pool.a"), ("east", "east"), ("north", "north.second")]
)
def test_strangers_and_doubles_serve_nobody(certified, worker):
    with pytest.raises(Rejected, match="none of the run's sites"):
        Seats(("north", "south"), None, Halt()).clients_of(certified, worker)


def test_a_round_waits_for_as_many_sites_as_it_needs():
    seats = Seats(("a", "b", "c"), 2, Halt())
    seats.seated({2})
    assert seats.absent() == ["a", "b"]
    threading.Timer(0.05, seats.seated, [{0, 2}]).start()
    assert seats.wait() == [0, 2]
    assert seats.absent() == ["b"]


def test_a_run_that_is_ended_waits_no_longer():
    halt = Halt()
    seats = Seats(("a", "b"), None, halt)
    ending = Ending(RunEvent.STOPPED, "Stopped", "enough")
    threading.Timer(0.05, halt.set, [ending]).start()
    began = time.monotonic()
    with pytest.raises(Halted):
        seats.wait()
    assert time.monotonic() - began < 5


def test_all_but_those_that_are_banned_are_waited_for():
    seats = Seats(("a", "b", "c"), None, Halt())
    assert seats.ban(["b"]) == {1: "site b is banned from the run"}
    seats.seated({0, 2})
    assert seats.wait() == [0, 2]
    assert (seats.absent(), seats.banned) == ([], ["b"])


def test_a_ban_ends_a_wait():
    seats = Seats(("a", "b", "c"), None, Halt())
    seats.seated({0, 2})
    threading.Timer(0.05, seats.ban, [["b"]]).start()
    assert seats.wait() == [0, 2]


def test_who_is_banned_and_still_connected_is_not_there():
    """Its session ends a moment after that."""
    seats = Seats(("a", "b", "c"), None, Halt())
    seats.seated({0, 1})
    threading.Timer(0.05, seats.ban, [["b"]]).start()
    threading.Timer(0.2, seats.seated, [{0, 2}]).start()
    assert seats.wait() == [0, 2]


def test_who_is_banned_serves_nobody_until_that_is_lifted():
    seats = Seats(("a", "b", "c"), None, Halt())
    seats.ban(["b"])
    with pytest.raises(Rejected, match="site b is banned from the run"):
        seats.clients_of("b", "b")
    assert seats.ban([]) == {}
    assert seats.clients_of("b", "b") == {1}


def test_strangers_cannot_be_banned_and_nobody_is():
    seats = Seats(("a", "b", "c"), None, Halt())
    with pytest.raises(Rejected, match="'d' cannot be banned"):
        seats.ban(["a", "d"])
    assert seats.banned == []


@pytest.mark.parametrize(
    ("minimum", "strategy", "banned", "goes_on"),
    [(None, 0, "a", True), (None, 0, "ab", False), (3, 0, "a", False), (None, 3, "a", False),
     (2, 2, "a", True), (3, 0, "", True), (None, 4, "", True)],
)  # fmt: skip
def test_a_run_with_too_few_left_is_ended(minimum, strategy, banned, goes_on):
    """Never one alone: its update would be the mean. That nobody is banned ends no run."""
    halt = Halt()
    seats = Seats(("a", "b", "c"), minimum, halt)
    seats.need(strategy)
    seats.ban([*banned])
    assert (halt.ending is None) == goes_on
    if halt.ending is not None:
        assert halt.ending.reason == "SitesBanned"
        left = 3 - len(banned)
        assert f"{left} of the run's 3 sites are left" in halt.ending.message
