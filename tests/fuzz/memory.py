"""Watches what a process takes while it reads what it was sent."""

from __future__ import annotations

import re
import resource
from pathlib import Path

MIB = 1024 * 1024

# Of the whole process, the fuzzer's own corpus included.
MAX_GROWTH = 64 * MIB


class Watch:
    """From its making on, the process must not grow by more than ``MAX_GROWTH``. Linux only."""

    def __init__(self) -> None:
        # The peak of what came before would hide a growth up to it.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = _status("VmRSS")
        # NumPy's zeros take no memory until they are touched, so no peak shows that a few bytes
        # asked for a terabyte. With this limit, asking raises MemoryError.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + 2 * MAX_GROWTH, hard))

    @staticmethod
    def lift() -> None:
        """Let the process ask for as much as it likes, and only measure."""
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))

    @property
    def growth(self) -> int:
        """So many bytes more than at first the process has held at its largest."""
        # Not getrusage's figure, which begins with that of the process that started this one. The
        # kernel counts pages in batches: it may seem to have shrunk by a few.
        return max(0, _status("VmHWM") - self._before)

    def check(self) -> None:
        """AssertionError once the process has grown too much."""
        assert self.growth <= MAX_GROWTH, f"the process grew by {self.growth / MIB:.0f} MiB"


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found is not None, field
    return int(found[1]) * 1024
