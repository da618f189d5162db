"""How a run is ended from outside the app: by a person, or because it cannot work any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from fedkube.core.errors import FedKubeError
from fedkube.core.run_states import RunEvent

# How long the app's main may take to notice; it notices whenever it uses its grid.
GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a run ends: the event, a reason in one word, a sentence, and text such as a traceback."""

    event: RunEvent
    reason: str
    message: str
    details: str = ""

    @classmethod
    def of(cls, error: FedKubeError) -> Ending:
        """A run that broke by this error."""
        hint = f"; {error.hint}" if error.hint else ""
        return cls(RunEvent.BROKE, type(error).__name__, error.message + hint, error.details)


class Halted(BaseException):
    """Raised in the app's threads when they use the grid of a run that was ended.

    No Exception: an app that catches those must not catch this.
    """


class Halt:
    """Set once; whoever waits for something of the run looks at it."""

    def __init__(self) -> None:
        self.ending: Ending | None = None
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    def on_set(self, callback: Callable[[], None]) -> None:
        """Call this when the run is ended; at once if it has been."""
        with self._lock:
            self._callbacks.append(callback)
            already = self.ending is not None
        if already:
            callback()

    def set(self, ending: Ending) -> bool:
        """End the run; False if it was ended before, and then for the reason given then."""
        with self._lock:
            if self.ending is not None:
                return False
            self.ending = ending
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()
        return True

    def check(self) -> None:
        """Raise Halted if the run was ended."""
        if self.ending is not None:
            raise Halted(self.ending.message)
