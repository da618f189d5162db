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
def config(request):
    return getattr(request, "param", {"change": True, "changed-tensors": 0})


@pytest.fixture
def executor(config):
    executor = Executor(AppSettings(ECHO, "echo_app.client_app:app", 1))
    executor.load(
        xpb.Load(
            app_dir=str(ECHO),
            component="echo_app.client_app:app",
            flower_run=3,
            run_config=to_values(config),
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
    executed, views = executor.execute(request, {number: (sent.descriptor, nbytes)}, [sent.view])
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


@pytest.mark.parametrize("config", [{"change": False, "changed-tensors": 0}], indirect=True)
def test_what_the_app_does_not_touch_is_not_copied(executor):
    """It stays where it was received."""
    sent = Segment.create(3_000)
    task = array_task(1, 3_000)
    place = xpb.Place(segment=1, nbytes=3_000)
    request = xpb.Execute(task=task, places=[place])
    view = sent.view[:3_000]
    executed, views = executor.execute(request, {1: (sent.descriptor, 3_000)}, [view])
    assert not executed.outcomes[0].failure.reason
    assert [each.received for each in executed.places] == [0]
    assert not executed.HasField("segment")
    assert views[0] is view


def test_a_reply_that_somebody_looks_at_stays_as_it_is(executor):
    [kept] = echo(executor, 1, 5_000)
    for number in range(2, 10):
        echo(executor, number, 1_000_000 * number)
    assert bytes(kept) == bytes([2]) * 5_000
