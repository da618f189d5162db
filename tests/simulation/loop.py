"""An event loop whose time passes only when there is nothing to do."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any


class Stuck(Exception):
    """Nothing will ever happen any more, and somebody still waits."""


class _Passing(selectors.BaseSelector):
    """Waits for no file: waiting is time that passes."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("everybody waits, and nothing is planned")
        self.now += max(0.0, timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> Any:
        return None

    def get_map(self) -> Any:
        return {}


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Runs what threads would do as well, each piece after a while of its own."""

    def __init__(self, chance: random.Random) -> None:
        self._passing = _Passing()
        super().__init__(self._passing)
        self._chance = chance
        # Of two that are planned for the same time, the one that was planned first comes first.
        self._clock_resolution = 1e-9
        self.wall_offset = 1.8e9

    def time(self) -> float:
        return self._passing.now

    def wall(self) -> float:
        """What the machine's clock says, which may jump."""
        return self.wall_offset + self._passing.now

    def _write_to_self(self) -> None:
        """There are no other threads that would have to wake this one."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """As on a thread: it takes a while, and whoever waits may be gone by then."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - handed on
                if not future.done():
                    future.set_exception(error)
                return
            if not future.done():
                future.set_result(result)

        self.call_later(self._chance.choice((0.001, 0.02, 0.3)), work)
        return future
