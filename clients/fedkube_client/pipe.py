"""Messages and descriptors over the socket pair between an agent and its executor."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

_HEAD = struct.Struct("<IH")
# The kernel passes at most 253 descriptors with one message.
MAX_DESCRIPTORS = 250


class Closed(ConnectionError):
    """The process at the other end is gone."""


def send(channel: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send a message, and duplicates of some descriptors with it."""
    body = message.SerializeToString()
    head = _HEAD.pack(len(body), len(descriptors))
    ancillary = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        if descriptors
        else []
    )
    try:
        sent = channel.sendmsg([head], ancillary)
        channel.sendall(head[sent:] + body)
    except (BrokenPipeError, ConnectionResetError):
        raise Closed("the other process is gone") from None


def receive(channel: socket.socket, kind: type[M]) -> tuple[M, list[int]]:
    """The next message of this kind, and the descriptors that came with it."""
    item = array.array("i")
    try:
        head, ancillary, _, _ = channel.recvmsg(
            _HEAD.size, socket.CMSG_LEN(MAX_DESCRIPTORS * item.itemsize)
        )
    except ConnectionResetError:
        raise Closed("the other process is gone") from None
    descriptors = array.array("i")
    for level, what, data in ancillary:
        if level == socket.SOL_SOCKET and what == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % item.itemsize])
    if not head:
        raise Closed("the other process is gone")
    head += _exactly(channel, _HEAD.size - len(head))
    size, _ = _HEAD.unpack(head)
    return kind.FromString(_exactly(channel, size)), list(descriptors)


def _exactly(channel: socket.socket, size: int) -> bytes:
    parts = bytearray(size)
    view = memoryview(parts)
    while view:
        try:
            count = channel.recv_into(view)
        except ConnectionResetError:
            count = 0
        if not count:
            raise Closed("the other process is gone")
        view = view[count:]
    return bytes(parts)
