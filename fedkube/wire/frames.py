"""Frames: what one gRPC message of a session holds.

======  =======================================================================
byte 0  rest
======  =======================================================================
0xC1    a ``WorkerFrame`` or ``ServerFrame`` (protobuf)
0xD1    one part or more: blob id (8 bytes), offset (8), number of bytes (4), all
        little-endian; then so many bytes of that blob, 1 MiB in the whole frame
        at most
======  =======================================================================
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from fedkube.core.errors import Rejected
from fedkube.wire.limits import CHUNK_BYTES, CONTROL_BYTES, STEP_BYTES

CONTROL = 0xC1
DATA = 0xD1
_DATA_KIND = bytes([DATA])
_DATA_HEAD = struct.Struct("<QQI")
_CONTROL_HEAD = bytes([CONTROL])

M = TypeVar("M", bound=Message)

# A blob to be sent: its id, its bytes in one piece or more, and from where on.
Bulk = tuple[int, Sequence[memoryview], int]


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


def next_data(bulk: deque[Bulk]) -> bytes:
    """The next data frame of what has to be sent, which is taken from ``bulk`` on the way.

    Small blobs share a frame: a frame costs more than the bytes of most. Nothing where only empty
    blobs are left.
    """
    while bulk and sum(map(len, bulk[0][1])) == bulk[0][2]:
        bulk.popleft()
    if not bulk:
        return b""
    parts: list[bytes | memoryview] = [_DATA_KIND]
    room = CHUNK_BYTES
    while bulk and room:
        blob, pieces, start = bulk[0]
        left = sum(map(len, pieces)) - start
        size = left if left <= room else room - room % STEP_BYTES
        if left and not size:
            break
        bulk.popleft()
        if left > size:
            bulk.appendleft((blob, pieces, start + size))
        if size:
            parts.append(_DATA_HEAD.pack(blob, start, size))
            parts += _cut(pieces, start, size)
        room -= size
    return b"".join(parts)


def _cut(pieces: Sequence[memoryview], start: int, size: int) -> Iterator[memoryview]:
    """``size`` bytes of the pieces, from ``start`` on."""
    for piece in pieces:
        if start < len(piece):
            part = piece[start : start + size]
            yield part
            size -= len(part)
            if not size:
                return
        start = max(0, start - len(piece))


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


def read_data(frame: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """Blob id, offset and bytes of each part of a data frame."""
    view = memoryview(frame)[1:]
    if not view:
        raise Rejected("a data frame without bytes")
    payload = 0
    while view:
        if len(view) <= _DATA_HEAD.size:
            raise Rejected("a data frame that ends in a heading")
        blob, offset, size = _DATA_HEAD.unpack_from(view)
        part = view[_DATA_HEAD.size : _DATA_HEAD.size + size]
        payload += size
        if len(part) != size or not size or payload > CHUNK_BYTES:
            raise Rejected(f"a data frame with {len(part)} bytes where {size} were announced")
        view = view[_DATA_HEAD.size + size :]
        yield blob, offset, part
