"""Whether something grows: a slope that a few outliers do not turn, and how far it is certain.

The median of the slopes between any two samples (Theil 1950, Sen 1968), with the interval that
Kendall's variance gives (Hollander and Wolfe, Nonparametric Statistical Methods, section 9.3).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

# Samples that are seconds apart say much the same; those of a minute become one.
_MINUTE_S = 60.0
_HOUR_S = 3600.0
_NORMAL_95 = 1.96

Samples = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Trend:
    """By how much something grows in an hour: most likely, and with 95 % at least and at most."""

    slope: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Samples) -> Trend:
        """Of values by their time in seconds, after the first quarter, in which caches fill."""
        begin, end = samples[0][0], samples[-1][0]
        points = _by_minute([each for each in samples if each[0] >= begin + (end - begin) / 4])
        pairs = itertools.combinations(points, 2)
        slopes = sorted(_HOUR_S * (b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs)
        if not slopes:
            return cls(0.0, -math.inf, math.inf)
        n, count = len(points), len(slopes)
        # Between how many of the ordered slopes the true one is.
        spread = _NORMAL_95 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
        low, high = math.floor((count - spread) / 2), math.ceil((count + spread) / 2)
        return cls(
            statistics.median(slopes),
            slopes[low] if low >= 0 else -math.inf,
            slopes[high] if high < count else math.inf,
        )


def _by_minute(samples: Samples) -> list[tuple[float, float]]:
    """The median of each minute, at its middle."""
    minutes: dict[int, list[float]] = defaultdict(list)
    for at, value in samples:
        minutes[int(at // _MINUTE_S)].append(value)
    return [
        ((minute + 0.5) * _MINUTE_S, statistics.median(values))
        for minute, values in sorted(minutes.items())
    ]
