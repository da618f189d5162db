"""Places at which a process can be made to die, so that tests can try what a crash there costs.

``FEDKUBE_FAILPOINT=NAME:N`` in a process's environment: it is killed, as ``kill -9`` would, when it
reaches that place for the Nth time. Nobody sets that outside of tests.
"""

from __future__ import annotations

import os
import signal

_place = ""
_left = 0


def die_at(where: str) -> None:
    """``NAME:N``, or an empty string for nowhere."""
    global _place, _left
    _place, _, count = where.partition(":")
    _left = int(count or 1)


def reach(place: str) -> None:
    """The process is here."""
    global _left
    if place != _place:
        return
    _left -= 1
    if not _left:
        os.kill(os.getpid(), signal.SIGKILL)


die_at(os.environ.get("FEDKUBE_FAILPOINT", ""))
