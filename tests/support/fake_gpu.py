"""An ``nvidia-smi`` for a GPU in name only: what processes have taken of it are locked files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# As the real one prints with --format=csv,noheader,nounits.
_SCRIPT = """#!{python}
import pathlib, sys
(fields,) = [each.partition("=")[2] for each in sys.argv if each.startswith("--query-gpu=")]
locked = [line.split()[5].split(":")[2] for line in open("/proc/locks")]
taken = [each for each in pathlib.Path({places!r}).iterdir() if str(each.stat().st_ino) in locked]
told = {{
    "index": 0,
    "memory.used": 100 + {each} * len(taken),
    "memory.total": {total},
    "utilization.gpu": {busy!r},
}}
print(", ".join(str(told[field]) for field in fields.split(",")))
"""


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    places: Path,
    *,
    each: int,
    total: int,
    busy: int | str = 50,
) -> None:
    """Have it found first, as a real one is. ``each``: MiB that a place stands for."""
    folder.mkdir()
    tool = folder / "nvidia-smi"
    tool.write_text(
        _SCRIPT.format(python=sys.executable, places=str(places), each=each, total=total, busy=busy)
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
