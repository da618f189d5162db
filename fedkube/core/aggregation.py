"""What an app may say of how its updates are aggregated, where it would otherwise be found out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from fedkube.core.errors import AppInvalid

# The key of the run config.
STATED = "fedkube-aggregation"


class Aggregation(StrEnum):
    """What an app may state in its run config, as ``fedkube-aggregation``."""

    MEAN = "mean"
    EVERY_UPDATE = "every-update"


def stated(run_config: Mapping[str, object]) -> Aggregation | None:
    """What the app states of its strategy, or None; AppInvalid where it is no such thing."""
    value = run_config.get(STATED)
    if value is None:
        return None
    try:
        return Aggregation(str(value))
    except ValueError:
        raise AppInvalid(
            f"the run config's {STATED} is {value!r}",
            hint='it may be "mean" or "every-update"; leave it out to have it found out',
        ) from None
