"""Memory that a message was in is written to again, and never while anybody may look at it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from array_task import array_task
from fedkube_client.executor import AppSettings, Executor
from fedkube_client.executor_main import has_children
from fedkube_client.segments import SegmentCache

from fedkube.proto.v1 import executor_pb2 as xpb

NBYTES = 3_000_000
ROUNDS = 12

# `kept` says of each array that the app has kept whether it is as it came.
APP = """
import subprocess
import sys
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
kept = []
if {child}:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"],
                             stdin=subprocess.PIPE)

@app.train()
def train(msg, context):
    if {keep}:
        kept.append((msg.content["arrays"], msg.content["arrays"]["w"].numpy().copy()))
    same = all(np.array_equal(record["w"].numpy(), then) for record, then in kept)
    metrics = MetricRecord({{"same": int(same), "kept": len(kept)}})
    return Message(RecordDict({{"metrics": metrics}}), reply_to=msg)
"""


def open_segments() -> int:
    """Of this process: two descriptors for each, and some of the executor's own."""
    links = (f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd"))
    return sum("memfd:fedkube" in os.readlink(each) for each in links if os.path.islink(each))


@pytest.fixture
def serve(tmp_path):
    """Serves rounds of a new model each; the files that these were in, and the last metrics."""
    started = []

    def rounds(keep: bool, child: bool, count: int = ROUNDS) -> tuple[list[int], dict[str, int]]:
        (tmp_path / "keeper.py").write_text(APP.format(keep=keep, child=child))
        executor = Executor(AppSettings(tmp_path, "keeper:app", 1))
        started.append(executor)
        load = xpb.Load(app_dir=str(tmp_path), component="keeper:app", flower_run=3, partitions=1)
        executor.load(load)
        cache = SegmentCache(10 * NBYTES)
        files, metrics = [], {}
        for number in range(1, count + 1):
            segment = cache.make(NBYTES)
            files.append(os.fstat(segment.descriptor).st_ino)
            segment.sink(0)(0, memoryview(np.full(NBYTES, number, np.uint8)))
            digest = bytes([number])
            cache.add(segment, [(digest, 0, NBYTES)])
            place = cache.find(digest)
            request = xpb.Execute(task=array_task(number, NBYTES), places=[place])
            request.dropped.extend(cache.shrink({place.segment}))
            executed, _ = executor.execute(
                request, {place.segment: cache.descriptor(place.segment)}, [cache.view(place)]
            )
            cache.unmapped(executed.unmapped)
            (outcome,) = executed.outcomes
            assert not outcome.failure.reason
            (record,) = (each for each in outcome.content.records if each.HasField("metrics"))
            metrics = {item.key: item.integer for item in record.metrics.items}
            assert metrics["same"] == 1, "what the app has kept is as it came"
            assert open_segments() <= 10, "what is of no use is not held on to"
        cache.close()
        return files, metrics

    yield rounds
    for executor in started:
        executor.close()


def test_models_that_come_one_after_the_other_use_a_few_files(serve):
    files, _ = serve(keep=False, child=False)
    assert len(set(files)) <= 4


def test_what_the_app_has_kept_is_not_written_to(serve):
    files, metrics = serve(keep=True, child=False)
    assert metrics["kept"] == ROUNDS
    assert len(set(files)) == ROUNDS


def test_what_a_process_of_the_app_may_look_at_is_not_written_to(serve):
    files, _ = serve(keep=False, child=True)
    assert len(set(files)) == ROUNDS


@pytest.mark.parametrize("child", [False, True])
def test_children_are_seen(child):
    start = "subprocess.Popen(['sleep', '60'])" if child else "None"
    code = (
        "import subprocess\n"
        "from fedkube_client.executor_main import has_children\n"
        f"child = {start}\n"
        "print(has_children())\n"
        "if child: child.kill()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(child)


def test_where_children_cannot_be_seen_there_may_be_some(monkeypatch):
    monkeypatch.delattr(os, "waitid")
    assert has_children()
