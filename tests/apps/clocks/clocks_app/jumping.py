"""A clock on which nobody can rely."""

import random
import time
from datetime import datetime

import flwr.app.message.message as flower

HOUR, TEN_YEARS = 3600.0, 10 * 365 * 86400.0
JUMPS = (-TEN_YEARS, -HOUR, 0.0, HOUR, TEN_YEARS)


def begin(seed: int) -> None:
    """From now on in this process, every look at the time of day finds it elsewhere."""
    jumps = random.Random(seed)
    right = time.time

    def now() -> float:
        return right() + jumps.choice(JUMPS)

    time.time = now
    flower.now = lambda: datetime.fromtimestamp(now()).astimezone()
