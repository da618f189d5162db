from __future__ import annotations

import pytest
from fedkube_server.halt import Ending, Halt, Halted

from fedkube.core.errors import AppInvalid, Environment
from fedkube.core.run_states import RunEvent

FIRST = Ending(RunEvent.STOPPED, "Stopped", "by a person")


def test_a_run_goes_on_until_it_is_ended():
    halt = Halt()
    halt.check()
    assert halt.ending is None


def test_the_first_reason_stays():
    halt = Halt()
    assert halt.set(FIRST)
    assert not halt.set(Ending(RunEvent.BROKE, "Broken", "later"))
    assert halt.ending is FIRST
    with pytest.raises(Halted, match="by a person"):
        halt.check()


def test_whoever_waits_is_told_once():
    halt, told = Halt(), []
    halt.on_set(lambda: told.append(halt.ending))
    halt.set(FIRST)
    halt.set(FIRST)
    assert told == [FIRST]


def test_an_app_that_catches_exceptions_does_not_catch_this():
    assert not issubclass(Halted, Exception)


def test_an_error_becomes_an_ending():
    assert Ending.of(Environment("no disk", hint="free some", details="x")) == Ending(
        RunEvent.BROKE, "Environment", "no disk; free some", "x"
    )
    assert Ending.of(AppInvalid("broken")).message == "broken"
