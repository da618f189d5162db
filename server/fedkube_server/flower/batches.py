"""Messages that were sent together, and their replies as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from fedkube.store.history import Phase
from fedkube_server.calls import Ending
from fedkube_server.folds import Fold
from fedkube_server.folds import Sent as ArraySent
from fedkube_server.halt import Halt
from fedkube_server.quorum import Quorum

# How often somebody who waits for a first outcome, beyond a deadline, looks whether there is one.
_STARVED_S = 0.05


@dataclass(slots=True)
class Sent:
    """A message that was sent: for whom, and what became of it."""

    task: int
    client: int
    message: Message
    outcome: Ending | None = None
    late: bool = False  # its phase is closed, and the client is still at it


@dataclass(slots=True)
class Batch:
    """One push.

    ``order``: the messages as they were given, which is the order of the replies. ``ends_phase``:
    whether the phase is over when all of them are; a strategy's phase ends when it aggregates.
    ``quorum``: when the phase is closed though not all have answered. ``folds``: where late updates
    are added, and what is sent in this phase. ``round``: the strategy's.
    """

    phase: Phase
    order: list[Sent]
    ends_phase: bool
    quorum: Quorum | None = None
    folds: tuple[Fold, Mapping[str, ArraySent]] | None = None
    round: int = 0
    open: int = field(init=False)

    def __post_init__(self) -> None:
        self.open = len(self.order)


class Mailbox:
    """Where outcomes arrive and the app's threads wait for them."""

    def __init__(self, halt: Halt) -> None:
        self._halt = halt
        self._changed = threading.Condition()
        halt.on_set(self._wake)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def put(self, batch: Batch, sent: Sent, outcome: Ending) -> bool:
        """An outcome has come; True if it was the batch's last."""
        with self._changed:
            if sent.outcome is not None:
                return False
            sent.outcome = outcome
            batch.open -= 1
            last = batch.open == 0
            if last:
                self._changed.notify_all()
            return last

    def wake(self) -> None:
        """What somebody waits for may be so now."""
        self._wake()

    def wait(
        self,
        batch: Batch,
        timeout_s: float | None,
        more: Callable[[], bool] = lambda: False,
        starved: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Wait for all of the batch's outcomes; False if time ran out. Raises Halted.

        ``more``: whether something else is still to come, of which ``wake`` tells. ``starved``:
        whether nobody could do anything with what there is, so that time cannot run out yet.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while batch.open or more():
                self._halt.check()
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    if not starved():
                        return False
                    left = _STARVED_S  # nobody tells of each outcome
                self._changed.wait(left)
            self._halt.check()
            return True
