"""The executor's process: loads the ClientApp once, then handles message after message."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys

from fedkube.proto.v1 import executor_pb2 as xpb
from fedkube_client import flower, pipe
from fedkube_client.segments import Segment, layout

# After a reply of this size, garbage is collected at once.
_COLLECT_BYTES = 64 * 1024 * 1024


def die_with_parent() -> None:
    """Have the kernel end this process when its parent is gone, even when it was killed."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def serve(channel: socket.socket) -> None:
    """Answer the agent until it hangs up."""
    load, _ = pipe.receive(channel, xpb.Load)
    handler, traceback = flower.load(load)
    gc.freeze()  # what the app has loaded stays; collections need not look at it
    pipe.send(channel, xpb.Loaded(traceback=traceback))
    if handler is None:
        return
    segments: dict[int, Segment] = {}
    while True:
        request, descriptors = pipe.receive(channel, xpb.Execute)
        for number in request.dropped:
            if number in segments:
                segments.pop(number).close()
        for new, descriptor in zip(request.segments, descriptors, strict=True):
            segments[new.id] = Segment(descriptor, new.nbytes)
            segments[new.id].close_descriptor()
        blobs = [
            segments[place.segment].view[place.offset : place.offset + place.nbytes].toreadonly()
            for place in request.places
        ]
        executed, outgoing = handler.handle(request.task, blobs)
        _reply(channel, executed, outgoing)
        if sum(map(len, outgoing)) > _COLLECT_BYTES:
            # Flower's records refer to themselves, so that only a collection frees their arrays.
            del executed, outgoing, blobs
            gc.collect()


def _reply(channel: socket.socket, executed: xpb.Executed, blobs: list[memoryview]) -> None:
    if not blobs:
        pipe.send(channel, executed)
        return
    offsets, size = layout([len(blob) for blob in blobs])
    segment = Segment.create(size)
    for blob, offset in zip(blobs, offsets, strict=True):
        segment.view[offset : offset + len(blob)] = blob
        executed.places.add(offset=offset, nbytes=len(blob))
    executed.segment_nbytes = max(size, 1)
    pipe.send(channel, executed, [segment.descriptor])
    segment.close()


def main() -> None:
    """Serve on the socket whose number is the only argument."""
    die_with_parent()
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
