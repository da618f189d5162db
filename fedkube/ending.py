"""How a container's first process ends that is told to before it can listen."""

from __future__ import annotations

import os
import signal
from types import FrameType


def end_on_sigterm() -> None:
    """End at once when told to, until something else handles it: called before the long imports.

    The first process of a container ignores what it does not handle: told to go while it still
    imports, it would go on working until it is killed, and what it had done would be lost.
    """
    signal.signal(signal.SIGTERM, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(128 + signal.SIGTERM)
