from __future__ import annotations

import itertools

import pytest

from fedkube.core.run_states import TABLE, RunEvent, RunState, move

MOVES = {
    ("Pending", "started"): "Running",
    ("Pending", "broke"): "Failed",
    ("Pending", "stopped"): "Stopped",
    ("Running", "finished"): "Succeeded",
    ("Running", "broke"): "Failed",
    ("Running", "stopped"): "Stopped",
    ("Pending", "resumed"): "Pending",
    ("Running", "resumed"): "Pending",
    ("Failed", "resumed"): "Pending",
    ("Stopped", "resumed"): "Pending",
}


def test_the_table_is_the_one_that_is_documented():
    assert TABLE == MOVES


@pytest.mark.parametrize(("state", "event"), list(itertools.product(RunState, RunEvent)))
def test_a_run_moves_as_the_table_says_and_not_otherwise(state, event):
    if (state, event) in MOVES:
        assert move(state, event) == MOVES[state, event]
    else:
        with pytest.raises(LookupError, match=f"a run that is {state} cannot be {event}"):
            move(state, event)


@pytest.mark.parametrize("state", list(RunState))
def test_final_is_what_nothing_follows_unless_it_is_resumed(state):
    follow = {event for begin, event in TABLE if begin is state}
    assert state.final == (follow <= {RunEvent.RESUMED})
