"""What simulated runs leave behind is gone before other tests count descriptors and files."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def leave_nothing() -> Iterator[None]:
    yield
    gc.collect()
