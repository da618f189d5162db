"""Frames: what one gRPC message of a session holds.

======  =======================================================================
byte 0  rest
======  =======================================================================
0xC1    a ``WorkerFrame`` or ``ServerFrame`` (protobuf)
0xD1    blob id (8 bytes), offset (8 bytes), both little-endian; then array bytes
======  =======================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from fedkube.core.errors import Rejected
from fedkube.wire.limits import CHUNK_BYTES, CONTROL_BYTES

CONTROL = 0xC1
DATA = 0xD1
_DATA_HEAD = struct.Struct("<BQQ")
_CONTROL_HEAD = bytes([CONTROL])

M = TypeVar("M", bound=Message)


def control(message: Message) -> bytes:
    """The frame of a control message; Rejected where it is too large for one."""
    check_size(message)
    return _CONTROL_HEAD + message.SerializeToString()


def check_size(message: Message) -> None:
    """Rejected where the message, or what it is to be a part of, is too large for a frame."""
    size = message.ByteSize()
    if size > CONTROL_BYTES:
        raise Rejected(
            f"metrics, configs and names take {size} bytes, and at most {CONTROL_BYTES} can "
            "travel; put large values into an ArrayRecord"
        )


def data(blob: int, blob_bytes: memoryview) -> Iterator[bytes]:
    """The frames of a blob, in order; none for an empty one."""
    for offset in range(0, len(blob_bytes), CHUNK_BYTES):
        yield b"".join(
            (_DATA_HEAD.pack(DATA, blob, offset), blob_bytes[offset : offset + CHUNK_BYTES])
        )


def is_data(frame: bytes) -> bool:
    """Whether the frame holds array bytes; Rejected where it is no frame at all."""
    if not frame or frame[0] not in (CONTROL, DATA):
        raise Rejected("a message that is no frame")
    return frame[0] == DATA


def read_control(frame: bytes, kind: type[M]) -> M:
    """The control message in a frame."""
    if len(frame) > CONTROL_BYTES + 1:
        raise Rejected(f"a control frame of {len(frame)} bytes; at most {CONTROL_BYTES} may come")
    try:
        return kind.FromString(memoryview(frame)[1:])  # type: ignore[arg-type]
    except DecodeError:
        raise Rejected("a control frame that cannot be parsed") from None


def read_data(frame: bytes) -> tuple[int, int, memoryview]:
    """Blob id, offset and bytes of a data frame."""
    if not _DATA_HEAD.size < len(frame) <= _DATA_HEAD.size + CHUNK_BYTES:
        raise Rejected(f"a data frame of {len(frame)} bytes")
    _, blob, offset = _DATA_HEAD.unpack_from(frame)
    return blob, offset, memoryview(frame)[_DATA_HEAD.size :]
