"""Whether a call ended because memory ran out: the device's, or the machine's."""

from __future__ import annotations

import re

from fedkube.proto.v1 import exchange_pb2 as pb

# How torch, TensorFlow, JAX, CuPy, CUDA's libraries, Python and our executor say it.
_RAN_OUT = re.compile(
    r"out of memory|memory ran out|OutOfMemoryError|MemoryError|RESOURCE_EXHAUSTED"
    r"|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


class GaveWay(Exception):
    """The worker has left its device to the others."""


def ran_out(failure: pb.Failure) -> bool:
    """Whether memory ran out in the call. A process that was killed is taken to have used it up."""
    if failure.code == pb.Failure.KILLED:
        return True
    if failure.code != pb.Failure.APP_RAISED:
        return False
    return said(failure.reason)


def said(traceback: str) -> bool:
    """Whether an error says that memory ran out."""
    # A traceback's other lines are the app's source, which may speak of memory as it likes.
    return any(_RAN_OUT.search(line) for line in traceback.splitlines() if not line.startswith(" "))


def taken_back(outcomes: list[pb.Outcome]) -> bool:
    """Have calls for which memory ran out made elsewhere; whether there are any."""
    short = [each for each in outcomes if each.HasField("failure") and ran_out(each.failure)]
    for outcome in short:
        outcome.failure.code = pb.Failure.NOT_SERVED
    return bool(short)
