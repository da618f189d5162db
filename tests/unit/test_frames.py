from __future__ import annotations

import pytest

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.limits import CHUNK_BYTES, CONTROL_BYTES, MESSAGE_BYTES

READY = pb.WorkerFrame(ready=pb.Ready())


def test_a_control_frame_comes_back():
    frame = frames.control(READY)
    assert frame[0] == 0xC1
    assert not frames.is_data(frame)
    assert frames.read_control(frame, pb.WorkerFrame) == READY


def test_a_data_frame_is_laid_out_as_documented():
    (frame,) = frames.data(0x0102, memoryview(b"xyz"))
    assert frame == b"\xd1" + b"\x02\x01" + bytes(6) + bytes(8) + b"xyz"
    assert frames.is_data(frame)
    assert frames.read_data(frame) == (0x0102, 0, b"xyz")


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 0), (1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (3 * CHUNK_BYTES, 3)],
)
def test_a_blob_is_cut_into_chunks(size, count):
    made = list(frames.data(7, memoryview(bytes(size))))
    assert len(made) == count
    assert [frames.read_data(each)[1] for each in made] == [i * CHUNK_BYTES for i in range(count)]
    assert sum(len(frames.read_data(each)[2]) for each in made) == size
    assert all(len(each) <= MESSAGE_BYTES for each in made)


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


@pytest.mark.parametrize("size", [1, 16, 17, 18 + CHUNK_BYTES])
def test_a_data_frame_without_bytes_or_with_too_many_is_refused(size):
    with pytest.raises(Rejected, match=f"a data frame of {size} bytes"):
        frames.read_data(b"\xd1" + bytes(size - 1))


@pytest.mark.parametrize(
    "body", [b"\x08", b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x04\x12\x02\xff\xfe"]
)
def test_a_control_frame_that_cannot_be_parsed_is_refused(body):
    with pytest.raises(Rejected, match="cannot be parsed"):
        frames.read_control(b"\xc1" + body, pb.WorkerFrame)
