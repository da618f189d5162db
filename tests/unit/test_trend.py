"""The verdict of the soak over an hour of samples: what grows is seen, and noise is not."""

from __future__ import annotations

import math
import random

from tests.soak.trend import Trend

MEGABYTE = 2**20


def an_hour(value, seed, noise=3 * MEGABYTE, minutes=60):
    """Samples five seconds apart of a process that is born again every few minutes or so."""
    chance = random.Random(seed)
    born, samples = 0.0, []
    for at in range(0, 60 * minutes, 5):
        if chance.random() < 1 / 30:
            born = at
        warm = 8 * MEGABYTE * (1 - math.exp(-(at - born) / 60))
        samples.append((float(at), value(at) + warm + chance.gauss(0, noise)))
    return samples


def trends(value):
    return [Trend.of(an_hour(value, seed)) for seed in range(40)]


def test_noise_is_hardly_ever_a_megabyte_of_growth():
    """Samples of one life are alike, so that the interval is a little too narrow."""
    flat = trends(lambda at: 90 * MEGABYTE)
    assert all(each.low <= each.slope <= each.high for each in flat)
    assert sum(each.low > MEGABYTE for each in flat) <= 2


def test_four_kilobytes_a_round_are_seen():
    """At half a round a second: what the server once held of each, seven megabytes an hour."""
    leaks = trends(lambda at: 90 * MEGABYTE + 4096 * at / 2)
    assert sum(each.low > MEGABYTE for each in leaks) >= 38
    assert sum(each.low <= 7 * MEGABYTE <= each.high for each in leaks) >= 35


def test_what_is_flat_but_for_outliers_is_flat():
    samples = [(float(at), 100.0 if at % 300 else 900.0) for at in range(0, 3600, 5)]
    assert Trend.of(samples) == Trend(0, 0, 0)


def test_of_what_was_hardly_looked_at_nothing_is_certain():
    assert Trend.of([(0.0, 1.0)]) == Trend(0, -math.inf, math.inf)
    trend = Trend.of([(0.0, 1.0), (60.0, 2.0), (120.0, 9.0)])
    assert (trend.low, trend.high) == (-math.inf, math.inf)
