from __future__ import annotations

import itertools
import struct
from collections import deque

import numpy as np
import pytest

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.limits import CHUNK_BYTES, CONTROL_BYTES, MESSAGE_BYTES, STEP_BYTES

READY = pb.WorkerFrame(ready=pb.Ready())


def test_a_control_frame_comes_back():
    frame = frames.control(READY)
    assert frame[0] == 0xC1
    assert not frames.is_data(frame)
    assert frames.read_control(frame, pb.WorkerFrame) == READY


def made(*bulk):
    """All frames of what has to be sent."""
    waiting = deque(bulk)
    sent = []
    while waiting:
        sent.append(frames.next_data(waiting))
    return sent


def parts(frame):
    return [(blob, offset, bytes(data)) for blob, offset, data in frames.read_data(frame)]


def test_a_data_frame_is_laid_out_as_documented():
    (frame,) = made((0x0102, [memoryview(b"xyz")], 0))
    assert frame == b"\xd1" + b"\x02\x01" + bytes(6) + bytes(8) + b"\x03\0\0\0" + b"xyz"
    assert frames.is_data(frame)
    assert parts(frame) == [(0x0102, 0, b"xyz")]


def test_small_blobs_share_a_frame():
    (frame,) = made(
        (1, [memoryview(b"one")], 0), (2, [memoryview(b"")], 0), (3, [memoryview(b"three")], 2)
    )
    assert parts(frame) == [(1, 0, b"one"), (3, 2, b"ree")]


@pytest.mark.parametrize("start", [0, STEP_BYTES, 2 * CHUNK_BYTES])
@pytest.mark.parametrize(
    "sizes",
    [
        [1],
        [CHUNK_BYTES],
        [CHUNK_BYTES + 1],
        [3 * CHUNK_BYTES],
        [10, CHUNK_BYTES - 10],
        [STEP_BYTES] * 9,
        [7, 3 * CHUNK_BYTES + 5, 11],
    ],
    ids=str,
)
def test_blobs_are_cut_at_blocks_and_come_together_again(sizes, start):
    """``sizes``: of the pieces of one blob; another blob comes before and after it."""
    generator = np.random.default_rng(0)
    data = generator.integers(0, 255, sum(sizes), dtype=np.uint8).data
    ends = np.cumsum([0, *sizes])
    pieces = [data[a:b] for a, b in itertools.pairwise(ends)]
    start = min(start, len(data))
    small = memoryview(b"small")
    came = {1: b"", 2: b"", 3: b""}
    for frame in made((1, [small], 0), (2, pieces, start), (3, [small], 0)):
        assert len(frame) <= MESSAGE_BYTES
        for blob, offset, part in parts(frame):
            assert offset == len(came[blob]) + (start if blob == 2 else 0)
            came[blob] += part
            whole = offset + len(part) == (len(data) if blob == 2 else len(small))
            assert whole or len(part) % STEP_BYTES == 0
    assert came == {1: b"small", 2: bytes(data[start:]), 3: b"small"}


def test_of_nothing_but_empty_blobs_no_frame_is_made():
    bulk = deque([(1, [memoryview(b"")], 0), (2, [memoryview(b"sent")], 4), (3, [], 0)])
    assert frames.next_data(bulk) == b""
    assert not bulk


def test_the_largest_control_frame_that_may_be_sent_may_be_read():
    """Else a message could leave one end and break the other."""
    overhead = len(pb.AppBroken(traceback="x" * CONTROL_BYTES).SerializeToString()) - CONTROL_BYTES
    message = pb.AppBroken(traceback="x" * (CONTROL_BYTES - overhead))
    frame = frames.control(message)
    assert len(frame) <= MESSAGE_BYTES
    assert frames.read_control(frame, pb.AppBroken) == message


def test_a_control_message_that_is_too_large_is_refused_with_advice():
    with pytest.raises(Rejected, match=r"can travel; put large values into an ArrayRecord"):
        frames.control(pb.AppBroken(traceback="x" * CONTROL_BYTES))


def test_a_control_frame_that_is_too_large_is_not_parsed():
    with pytest.raises(Rejected, match="a control frame of 16777218 bytes"):
        frames.read_control(bytes(CONTROL_BYTES + 2), pb.WorkerFrame)


@pytest.mark.parametrize("frame", [b"", b"\x00", b"GET / HTTP/1.1", b"\xc0", b"\xff\xd1"])
def test_what_is_no_frame_is_refused(frame):
    with pytest.raises(Rejected, match="no frame"):
        frames.is_data(frame)


HEAD = struct.Struct("<QQI")
FULL = HEAD.pack(1, 0, CHUNK_BYTES) + bytes(CHUNK_BYTES)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "without bytes"),
        (bytes(19), "ends in a heading"),
        (HEAD.pack(1, 0, 0), "ends in a heading"),
        (HEAD.pack(1, 0, 0) + b"x", "a data frame with 0 bytes"),
        (HEAD.pack(1, 0, 4) + b"xyz", "3 bytes where 4 were announced"),
        (HEAD.pack(1, 0, 3) + b"xyz" + b"rest", "ends in a heading"),
        (HEAD.pack(1, 0, 2**32 - 1) + b"xyz", "were announced"),
        (HEAD.pack(1, 0, CHUNK_BYTES + 1) + bytes(CHUNK_BYTES + 1), "were announced"),
        (
            HEAD.pack(1, 0, CHUNK_BYTES) + bytes(CHUNK_BYTES) + HEAD.pack(2, 0, 1) + b"x",
            "announced",
        ),
    ],
    ids=range(9),
)
def test_a_data_frame_that_is_not_made_as_documented_is_refused(body, reason):
    with pytest.raises(Rejected, match=reason):
        parts(b"\xd1" + body)


@pytest.mark.parametrize(
    "body", [b"\x08", b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x04\x12\x02\xff\xfe"]
)
def test_a_control_frame_that_cannot_be_parsed_is_refused(body):
    with pytest.raises(Rejected, match="cannot be parsed"):
        frames.read_control(b"\xc1" + body, pb.WorkerFrame)
