"""How many clients a round asks, and how many it waits for. Pure."""

from __future__ import annotations

import math


def share(clients: int, fraction: float) -> int:
    """How many clients a fraction is: rounded to the nearest, and at least one."""
    return max(1, math.floor(clients * fraction + 0.5))


def asked(wanted: int, over_selection: float, available: int) -> int:
    """How many are asked so that ``wanted`` answer: never more than there are.

    Over-selection as in Bonawitz et al. 2019, "Towards federated learning at scale", section 2.2.
    """
    # 10 * 1.1 is 11.000000000000002 in floats, which is no 12.
    return min(available, math.ceil(round(wanted * over_selection, 6)))
