"""Updates that are summed, from workers that say what a test wants to a server of the harness."""

from __future__ import annotations

import numpy as np
from exchange_harness import Server
from fedkube_server.folds import Fold
from scripted_worker import Worker, all_frames

from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import updates
from fedkube.wire.limits import UNASKED_BYTES
from fedkube.wire.tensors import digest

# Three frames of bytes, so that a transfer has a middle.
LARGE = 750_000


def ask(server: Server, *clients: int, size: int = LARGE, base: int = 0) -> Fold:
    """Ask clients for an update of so many float32; where these are summed."""
    content = pb.Content()
    _array(content, size)
    fold = Fold({"w": (size,)}, "num-examples", cohort=len(clients))
    zeros = memoryview(np.zeros(size, np.float32).tobytes())
    server.submit_all([*clients], content, [zeros], fold=fold, base=base)
    return fold


def update(value: float, size: int = LARGE) -> bytes:
    """An update that has this value throughout."""
    return np.full(size, value, np.float32).tobytes()


def announcement(task: pb.Task, data: bytes, upload: int = 1) -> pb.Reply:
    """The reply of the task's first client, with these bytes as its update."""
    outcome = pb.Outcome(call=task.calls[0].id)
    _array(outcome.content, len(data) // 4)
    outcome.content.records.add(name="metrics").metrics.items.add(key="num-examples", integer=1)
    reply = pb.Reply(upload=upload, assignment=task.assignment, outcomes=[outcome])
    reply.bytes_follow = len(data) <= UNASKED_BYTES
    reply.blobs.add(id=upload, digest=digest(data), nbytes=len(data))
    return reply


def held(task: pb.Task) -> pb.Reply:
    """The reply of the task's first client, whose update stays in its worker's sum."""
    reply = announcement(task, b"")
    updates.hold(reply.outcomes[0])
    del reply.blobs[:]
    return reply


async def answer(worker: Worker, task: pb.Task, data: bytes, upload: int = 1) -> pb.Settled:
    """Reply to the task, send the bytes when they may come, and wait until it is settled."""
    reply = announcement(task, data, upload)
    await worker.send(reply=reply)
    if not reply.bytes_follow:
        assert (await worker.control()).need.of == upload
    for frame in all_frames(upload, data):
        await worker.write(frame)
    return await worker.settled()


def _array(content: pb.Content, size: int) -> None:
    item = content.records.add(name="arrays").arrays.items.add(name="w", dtype="float32", blob=0)
    item.shape.append(size)
    item.stype = "numpy.ndarray"
