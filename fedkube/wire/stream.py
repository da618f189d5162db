"""A peer's connection to the server above it: what is written first, what is read, and again.

A worker's agent has one, and a relay.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels, frames
from fedkube.wire.limits import UNASKED_BYTES
from fedkube.wire.window import Window

log = logging.getLogger("fedkube.wire")


class Refused(Exception):
    """The server will not have this peer; trying again would not help."""


class Receiver(Protocol):
    """Whose stream it is."""

    def hello(self) -> pb.Hello:
        """Who we are, and what we still have."""

    def greeted(self, stream: Stream, welcome: pb.Welcome) -> None:
        """The server has welcomed us."""

    def receive(self, frame: bytes) -> bool:
        """Take a frame; True if it is the goodbye."""

    def check(self) -> None:
        """Raise if there is nobody to receive any more."""

    def cut(self) -> None:
        """The stream has ended."""


# Makes a channel to an address.
Connect = Callable[[str, channels.Credentials], Any]


async def attend(
    receiver: Receiver,
    address: str,
    credentials: channels.Credentials,
    give_up_s: float,
    connect: Connect = channels.connect,
) -> None:
    """Keep a stream to the server until it says goodbye; Refused if it will not have us.

    A lost connection is made again, after waits that grow and vary; what was going on goes on
    meanwhile. Without a server for ``give_up_s`` seconds, this ends.
    """
    loop = asyncio.get_running_loop()
    last_seen = loop.time()
    tries = 0
    while True:
        stream = Stream(receiver, loop.time)
        try:
            channel = connect(address, credentials)
            if await stream.serve(channel, receiver.hello()):
                return
        except grpc.aio.AioRpcError as error:
            if error.code() in (
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.INVALID_ARGUMENT,
            ):
                raise Refused(error.details() or "refused") from None
        except Rejected as error:
            log.warning("the server broke a rule of the exchange: %s", error.message)
        finally:
            receiver.cut()
        if stream.greeted:
            last_seen, tries = loop.time(), 0
        if loop.time() - last_seen > give_up_s:
            raise Refused(f"no server at {address} for {give_up_s:g} s")
        tries += 1
        await asyncio.sleep(min(5.0, 0.1 * 2**tries) * random.uniform(0.5, 1.0))  # noqa: S311


class Stream:
    """Frames to the server: control frames first, then array bytes in the order of asking.

    ``clock``: seconds that never jump.
    """

    def __init__(self, receiver: Receiver, clock: Callable[[], float]) -> None:
        self._receiver = receiver
        self._control: deque[bytes] = deque()
        self._bulk: deque[frames.Bulk] = deque()
        self._window = Window(clock)
        self._wake = asyncio.Event()
        self._call: Any = None
        self._over = False
        self.greeted = False

    def send(self, frame: bytes) -> None:
        """Send a control frame."""
        self._control.append(frame)
        self._wake.set()

    def send_data(self, blob: int, pieces: Sequence[memoryview], start: int) -> None:
        """Send a blob's bytes from ``start`` on."""
        if not self._bulk and sum(map(len, pieces)) - start > UNASKED_BYTES:
            self._probe()
        self._bulk.append((blob, pieces, start))
        self._wake.set()

    def _probe(self) -> None:
        probe = self._window.probe()
        if probe is not None:
            self.send(frames.control(pb.WorkerFrame(probe=probe)))

    def received(self, said: pb.Received) -> None:
        """The server has so much of what was sent; Rejected where that cannot be."""
        self._window.received(said)
        self._wake.set()

    def forget(self, blobs: Collection[int]) -> None:
        """Do not send these any more."""
        for item in [each for each in self._bulk if each[0] in blobs]:
            self._bulk.remove(item)

    def hang_up(self) -> None:
        """End the stream."""
        if self._call is not None:
            self._call.cancel()

    async def serve(self, channel: Any, hello: pb.Hello) -> bool:
        """Use the channel until it ends; True if the server said goodbye."""
        async with channel:
            self.send(frames.control(pb.WorkerFrame(hello=hello)))
            self._call = channel.stream_stream(channels.SESSION)(self._frames())
            try:
                async for frame in self._call:
                    if not self.greeted:
                        self._welcome(frame)
                    elif self._receiver.receive(frame):
                        return True
            except asyncio.CancelledError:
                self._receiver.check()
                raise
            finally:
                # Whoever takes frames from here would wait for the next one for ever.
                self._over = True
                self._wake.set()
        return False

    def _welcome(self, frame: bytes) -> None:
        if frames.is_data(frame):
            raise Rejected("a session begins with Welcome")
        message = frames.read_control(frame, pb.ServerFrame)
        if message.WhichOneof("kind") != "welcome":
            raise Rejected("a session begins with Welcome")
        self.greeted = True
        self._receiver.greeted(self, message.welcome)

    async def _frames(self) -> AsyncIterator[bytes]:
        while not self._over:
            if self._control:
                yield self._control.popleft()
            elif self._bulk and self._window.is_open:
                frame = frames.next_data(self._bulk)
                if frame:
                    self._window.sent(len(frame))
                    yield frame
            else:
                self._wake.clear()
                await self._wake.wait()
