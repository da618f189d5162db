"""An executor's process and what its agent holds of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from array_task import array_task
from fedkube_client.executor import AppSettings, Executor
from fedkube_client.segments import Segment

from fedkube.app.records import to_values
from fedkube.proto.v1 import executor_pb2 as xpb

ECHO = Path(__file__).parents[1] / "apps" / "echo"


@pytest.fixture
def executor():
    executor = Executor(AppSettings(ECHO, "echo_app.client_app:app", 1))
    config = to_values({"change": True, "changed-tensors": 0})
    executor.load(
        xpb.Load(
            app_dir=str(ECHO),
            component="echo_app.client_app:app",
            flower_run=3,
            run_config=config,
            partitions=1,
            node_config="{}",
        )
    )
    yield executor
    executor.close()


def echo(executor, number, nbytes):
    """The arrays of the reply to one of so many bytes."""
    sent = Segment.create(nbytes)
    sent.view[:] = bytes([number % 200]) * nbytes
    request = xpb.Execute(
        task=array_task(number, nbytes), places=[xpb.Place(segment=number, nbytes=nbytes)]
    )
    request.dropped.extend([number - 1] if number > 1 else [])
    executed, views = executor.execute(request, {number: (sent.descriptor, nbytes)})
    assert not executed.outcomes[0].failure.reason
    sent.close()
    return views


def test_replies_of_any_sizes_leave_nothing_behind(executor):
    """What the process has no use for any more is given up at both ends."""
    at_first = None
    for number in range(1, 60):
        nbytes = 3_000 * number if number % 2 else 3_000_000
        [view] = echo(executor, number, nbytes)
        assert np.all(np.frombuffer(view, np.uint8) == number % 200 + 1)
        assert len(view) == nbytes
        del view
        if number == 10:
            at_first = len(os.listdir("/proc/self/fd"))
    assert len(os.listdir("/proc/self/fd")) <= at_first + 4


def test_a_reply_that_somebody_looks_at_stays_as_it_is(executor):
    [kept] = echo(executor, 1, 5_000)
    for number in range(2, 10):
        echo(executor, number, 1_000_000 * number)
    assert bytes(kept) == bytes([2]) * 5_000
