"""Quantities as a person reads and writes them."""

from __future__ import annotations

from typing import Literal

from fedkube.core.errors import Usage
from fedkube.planner.packing import AUTO


def per_gpu(text: str | None) -> int | Literal["auto"] | None:
    """What ``--clients-per-gpu`` says; Usage where that is no number. Limits are the planner's."""
    if text is None or text == AUTO:
        return text and AUTO
    try:
        return int(text)
    except ValueError:
        raise Usage(f"--clients-per-gpu is {text!r}, and must be a number or {AUTO}") from None


def counted(count: int, noun: str) -> str:
    """As "1 client" or "2 clients"."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def seconds_in_words(seconds: float) -> str:
    """As "20 ms", "1.5 s", "2 min 05 s" or "3 h 20 min"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_in_words(count: float) -> str:
    """As "20 B" or "1.5 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def age_in_words(seconds: float) -> str:
    """As kubectl has it: "45s", "12m", "5h", "3d"."""
    whole = max(int(seconds), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"
