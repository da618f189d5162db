"""The executor's process: loads the ClientApp once, then handles message after message."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterable

from fedkube.core import heap
from fedkube.proto.v1 import executor_pb2 as xpb
from fedkube_client import flower, pipe
from fedkube_client.segments import Segment, fits, layout

# After a reply of this size, garbage is collected at once.
_COLLECT_BYTES = 64 * 1024 * 1024


def die_with_parent() -> None:
    """Have the kernel end this process when its parent is gone, even when it was killed."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def serve(channel: socket.socket) -> None:
    """Answer the agent until it hangs up."""
    load, (descriptor,) = pipe.receive(channel, xpb.Load)
    progress = Segment(descriptor, 8)
    progress.close_descriptor()

    def began(place: int) -> None:
        progress.view[:8] = place.to_bytes(8, "little")

    handler, traceback = flower.load(load)
    gc.freeze()  # what the app has loaded stays; collections need not look at it
    pipe.send(channel, xpb.Loaded(traceback=traceback))
    if handler is None:
        return
    segments: dict[int, Segment] = {}
    replies = Replies()
    while True:
        request, descriptors = pipe.receive(channel, xpb.Execute)
        unmapped = [
            number
            for number in request.dropped
            if number not in segments or segments.pop(number).close()
        ]
        for new, descriptor in zip(request.segments, descriptors, strict=True):
            segments[new.id] = Segment(descriptor, new.nbytes)
            segments[new.id].close_descriptor()
        blobs = [
            segments[place.segment].view[place.offset : place.offset + place.nbytes].toreadonly()
            for place in request.places
        ]
        handler.uncounted(request.uncounted)
        executed, outgoing = handler.handle(request.task, blobs, began)
        if not has_children():
            executed.unmapped.extend(unmapped)
        replies.free(request.free)
        pipe.send(channel, executed, replies.put(executed, outgoing, blobs))
        if sum(place.nbytes for place in executed.places) > _COLLECT_BYTES:
            # Flower's records refer to themselves, so that only a collection frees their arrays.
            del executed, outgoing, blobs
            gc.collect()


def has_children() -> bool:
    """Whether there may be processes that the app has started: they have what was mapped then."""
    if not hasattr(os, "waitid"):
        return True  # macOS has it from Python 3.13 on
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


class Replies:
    """The segments that replies' arrays are written to; one that is free again is used again.

    Memory that was written to before is several times faster to write to.
    """

    def __init__(self) -> None:
        self._segments: dict[int, Segment] = {}
        self._free: list[int] = []
        self._given_up: list[int] = []
        self._number = 0

    def free(self, numbers: Iterable[int]) -> None:
        """The agent does not look at these any more."""
        self._free += numbers

    def put(
        self, executed: xpb.Executed, blobs: list[memoryview], received: list[memoryview]
    ) -> list[int]:
        """Write a reply's arrays, and say where; the descriptor that the agent has to be given.

        ``received``: the task's blobs. One that is among them is where it was.
        """
        known = {id(blob): index for index, blob in enumerate(received)}
        executed.places.extend(xpb.Place(received=known.get(id(blob))) for blob in blobs)
        fresh = [index for index, blob in enumerate(blobs) if id(blob) not in known]
        if not fresh:
            return []
        offsets, size = layout([len(blobs[index]) for index in fresh])
        number = self._take(size)
        descriptors = []
        if number is None:
            self._number += 1
            number = self._number
            self._segments[number] = made = Segment.create(size)
            executed.segment.CopyFrom(xpb.NewSegment(id=number, nbytes=made.nbytes))
            descriptors = [made.descriptor]
        executed.dropped.extend(self._given_up)
        self._given_up.clear()
        segment = self._segments[number]
        for index, offset in zip(fresh, offsets, strict=True):
            blob = blobs[index]
            segment.view[offset : offset + len(blob)] = blob
            place = xpb.Place(segment=number, offset=offset, nbytes=len(blob))
            executed.places[index].CopyFrom(place)
        return descriptors

    def _take(self, size: int) -> int | None:
        """A free segment that is large enough and not far too large; the others are given up."""
        chosen = None
        for number in self._free:
            enough = fits(self._segments[number], size)
            if enough and chosen is None:
                chosen = number
            elif not enough:
                self._segments.pop(number).close()
                self._given_up.append(number)
        self._free = [each for each in self._free if each in self._segments and each != chosen]
        return chosen


def main() -> None:
    """Serve on the socket whose number is the only argument."""
    die_with_parent()
    heap.keep()
    # Ctrl-C reaches every process of a terminal; this one is ended by its agent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    try:
        serve(channel)
    except pipe.Closed:
        pass
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
