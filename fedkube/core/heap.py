"""How this process's C heap deals with large arrays that come and go, round after round."""

from __future__ import annotations

import contextlib
import ctypes
import sys

# glibc's numbers of the settings; other C libraries have no such function, or ignore them.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

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
