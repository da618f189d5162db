"""Which updates may count: the rules that a reply's description is checked against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]

# Counts up to here are exact, and sums of weights cannot overflow; fractions down to there.
_HEAVIEST = 2.0**53
_LIGHTEST = 2.0**-53


@dataclass(frozen=True, slots=True)
class Expected:
    """What a mean-type or robust aggregation needs of every reply.

    ``arrays``: name to shape of the arrays that were sent, or None where the phase returns none.
    ``weight_key``: the metric that weighs a reply. Element types are left free: an average of
    integers is real, so apps send back other types than they were sent.
    """

    arrays: Mapping[str, Shape] | None
    weight_key: str


def refusal(
    expected: Expected,
    arrays: Sequence[Mapping[str, Shape]],
    metrics: Mapping[str, object],
    bad_array: str | None,
) -> str | None:
    """Why a reply must not be counted, as a sentence, or None where it may.

    ``arrays``: name to shape, one mapping per array record of the reply. ``metrics``: its numbers.
    ``bad_array``: the name of an array that holds NaN or infinity, where that was looked at.
    """
    if expected.arrays is not None:
        reason = _arrays_differ(expected.arrays, arrays)
        if reason:
            return reason
    if bad_array is not None:
        return f"array {bad_array!r} holds NaN or infinity"
    return _weight_unfit(expected.weight_key, metrics)


def _arrays_differ(sent: Mapping[str, Shape], got: Sequence[Mapping[str, Shape]]) -> str | None:
    if len(got) != 1:
        return f"it holds {len(got)} array records, and exactly one is averaged"
    missing = [name for name in sent if name not in got[0]]
    extra = [name for name in got[0] if name not in sent]
    if missing or extra:
        parts = [f"lacks {_some(missing)}"] * bool(missing) + [f"adds {_some(extra)}"] * bool(extra)
        return f"its arrays are not those that were sent: it {' and '.join(parts)}"
    for name, shape in sent.items():
        if got[0][name] != shape:
            return f"array {name!r} has shape {list(got[0][name])}, and {list(shape)} was sent"
    return None


def _weight_unfit(key: str, metrics: Mapping[str, object]) -> str | None:
    if key not in metrics:
        return f"its metrics lack {key!r}, the weight of the average"
    weight = metrics[key]
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        return f"{key!r} is {weight!r}, and must be one number"
    if not math.isfinite(weight) or weight <= 0:
        return f"{key!r} is {weight!r}, and must be above zero"
    if not _LIGHTEST <= weight <= _HEAVIEST:
        return f"{key!r} is {weight!r}, and must be between {_LIGHTEST:g} and {_HEAVIEST:g}"
    return None


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
