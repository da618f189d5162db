"""Which clients take so long that a second worker should try them as well. Pure.

As MapReduce's backup tasks (Dean and Ghemawat 2004, section 3.6).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TypeVar

# Beyond so many times what calls of the kind take (median), one is slow.
FACTOR = 3.0
# With fewer calls that have ended, nobody knows what they take.
LEAST_ENDED = 3
# A second worker does not pay for less than that.
LEAST_S = 1.0

T = TypeVar("T", bound=int)


def slow(running: Mapping[T, float], ended: Sequence[float]) -> list[T]:
    """Those of the running calls that are slow, the slowest first.

    ``running``, ``ended``: seconds that calls of one kind have taken so far, or took in the end.
    """
    if len(ended) < LEAST_ENDED:
        return []
    bound = max(LEAST_S, FACTOR * statistics.median(ended))
    late = [call for call, seconds in running.items() if seconds > bound]
    return sorted(late, key=lambda call: (-running[call], call))
