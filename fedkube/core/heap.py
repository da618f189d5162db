"""How this process's memory deals with what comes and goes, and with what stays."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
import threading
from pathlib import Path

# glibc's numbers of the settings; other C libraries have no such function, or ignore them.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

# What is free is given back so often: to fault it in again costs a fraction of a second.
_TRIM_S = 60.0

# The largest that glibc takes: arrays up to this come from the heap.
_MMAP_BYTES = 32 * 1024 * 1024


def keep() -> None:
    """Use freed memory again instead of giving it back at once.

    By default the heap's end is given back to the kernel whenever a few MiB there are free, and
    faulted in anew for the next model: at 100 MB, a fifth of a second a round. And one heap for all
    threads: with several, each keeps pieces of models that are gone.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_ARENA_MAX, 1)


class Residents:
    """Has garbage collections pass over what stays for long, where thousands of such come.

    A collection looks at all objects that are there: of a server with 10,000 sessions, for a
    second, several times a round.
    """

    def __init__(self, many: int = 1000) -> None:
        self._many = many
        self._come = 0

    def came(self, there: int) -> None:
        """Another one is there, of so many in all; it may have taken the place of one that went.

        When half of them are new, all that is there is looked at once more, and then no more.
        """
        self._come += 1
        if self._come >= max(self._many, there // 2):
            self._come = 0
            gc.unfreeze()  # what has gone since is found only so
            gc.collect()
            gc.freeze()


def peak_bytes() -> int:
    """The most memory that this process has had at a time.

    What getrusage says begins with what the process had that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def trim_now_and_then() -> None:
    """Give back what is free once a minute, for a process that lives long.

    The heap is as large as it ever was at once, and the longer it lives, the larger the largest
    burst it has seen.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError):
        trim = ctypes.CDLL(None).malloc_trim

        def go_on() -> None:
            pause = threading.Event()
            while not pause.wait(_TRIM_S):
                trim(0)

        threading.Thread(target=go_on, name="heap", daemon=True).start()
