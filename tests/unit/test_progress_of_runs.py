"""What a coordinator makes of what a server says of itself."""

from __future__ import annotations

import pytest

from fedkube.coordinator.progress import unanswered
from fedkube.proto.v1 import exchange_pb2 as pb


@pytest.mark.parametrize(
    ("said", "calls"),
    [
        ({"phase": "train", "clients": 10, "done": 4, "running": 2}, 6),
        ({"phase": "train", "clients": 10, "done": 10}, 0),
        ({"clients": 10, "done": 4}, 0),
        # Their rounds are over, and what they are at counts all the same.
        ({"running": 3}, 3),
        ({"phase": "train", "clients": 2, "done": 1, "running": 3}, 3),
    ],
)
def test_how_many_calls_there_are_workers_for(said: dict[str, object], calls: int) -> None:
    assert unanswered(pb.Snapshot(**said)) == calls  # type: ignore[arg-type]
