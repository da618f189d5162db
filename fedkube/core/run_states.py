"""The states of a run as a table; a move that is not in the table is an error."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """Where a run is in its life."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED)


class RunEvent(StrEnum):
    """What moves a run from state to state."""

    STARTED = "started"
    FINISHED = "finished"
    BROKE = "broke"
    STOPPED = "stopped"
    RESUMED = "resumed"


TABLE: dict[tuple[RunState, RunEvent], RunState] = {
    (RunState.PENDING, RunEvent.STARTED): RunState.RUNNING,
    (RunState.PENDING, RunEvent.BROKE): RunState.FAILED,
    (RunState.PENDING, RunEvent.STOPPED): RunState.STOPPED,
    (RunState.RUNNING, RunEvent.FINISHED): RunState.SUCCEEDED,
    (RunState.RUNNING, RunEvent.BROKE): RunState.FAILED,
    (RunState.RUNNING, RunEvent.STOPPED): RunState.STOPPED,
    # A run that has not ended well may be taken up again from its journal.
    (RunState.PENDING, RunEvent.RESUMED): RunState.PENDING,
    (RunState.RUNNING, RunEvent.RESUMED): RunState.PENDING,
    (RunState.FAILED, RunEvent.RESUMED): RunState.PENDING,
    (RunState.STOPPED, RunEvent.RESUMED): RunState.PENDING,
}


def move(state: RunState, event: RunEvent) -> RunState:
    """The state that follows; raises LookupError when the table has no such move."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise LookupError(f"a run that is {state} cannot be {event}") from None
