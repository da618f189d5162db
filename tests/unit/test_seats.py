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
