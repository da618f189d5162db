"""Tests that take hours, each a command of its own."""

from __future__ import annotations

import sys


def conclude(wrong: list[str]) -> None:
    """Say what does not hold, and end with exit code 1 if anything does not."""
    for each in wrong:
        print(f"WRONG: {each}")
    if wrong:
        sys.exit(1)
    print("all holds")
