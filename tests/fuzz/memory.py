"""Watches what a process takes while it reads what it was sent."""

from __future__ import annotations

import re
import resource
from pathlib import Path

MIB = 1024 * 1024

# Of the whole process, the fuzzer's own corpus included.
MAX_GROWTH = 64 * MIB


class Watch:
    """From its making on, the process must not grow by more than ``MAX_GROWTH``."""

    def __init__(self) -> None:
        self._before = _peak()
        # NumPy's zeros take no memory until they are touched, and so the peak would not show that a
        # few bytes asked for a terabyte. With this, asking raises MemoryError.
        limit = _data_bytes() + 2 * MAX_GROWTH
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

    @property
    def growth(self) -> int:
        """By so many bytes the largest that the process has been in memory is above the first."""
        return _peak() - self._before

    def check(self) -> None:
        """AssertionError once the process has grown too much."""
        assert self.growth <= MAX_GROWTH, f"the process grew by {self.growth / MIB:.0f} MiB"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _data_bytes() -> int:
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None, "Linux only"
    return int(found[1]) * 1024
