"""A task with one array, as an executor gets it."""

from __future__ import annotations

from fedkube.proto.v1 import exchange_pb2 as pb


def array_task(number: int, nbytes: int) -> pb.Task:
    """One call of ``train``, with so many bytes in the array ``w``."""
    content = pb.Content()
    item = content.records.add(name="arrays").arrays.items.add(name="w", dtype="uint8", blob=0)
    item.shape.append(nbytes)
    item.stype = "numpy.ndarray"
    call = pb.Call(id=number, node=5, message_id=f"m{number}", created_at=1.0, ttl=100, seed=number)
    return pb.Task(assignment=number, message_type="train", content=content, calls=[call])
