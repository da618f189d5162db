"""What simulated runs leave behind is gone before other tests count descriptors and files."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def leave_nothing() -> Iterator[None]:
    flowers = logging.getLogger("flwr")
    level = flowers.level
    flowers.setLevel(logging.ERROR)  # it tells of each round of thousands
    yield
    flowers.setLevel(level)
    gc.collect()
