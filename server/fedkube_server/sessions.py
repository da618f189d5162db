"""One connected worker: frames out in order of urgency, replies in as their bytes come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from weakref import WeakSet

import numpy as np

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.limits import MAX_REPLY_BYTES
from fedkube.wire.transfers import Incoming, check_announced
from fedkube_server.blobs import StoredBlob
from fedkube_server.driver import Answer, Driver


class Session:
    """What a worker's stream is used for. Made when its Hello has been accepted."""

    def __init__(self, name: str, driver: Driver, app_broken: Callable[[str], None]) -> None:
        self.name = name
        self._driver = driver
        self._app_broken = app_broken
        self._control: deque[bytes] = deque()
        self._bulk: deque[StoredBlob] = deque()
        self._generation = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._held: WeakSet[StoredBlob] = WeakSet()
        self._offered: dict[int, StoredBlob] = {}
        self._current: tuple[int, int] | None = None
        self._incoming = Incoming()
        self._reply: _Partial | None = None

    # ------------------------------------------------------------- out

    def give(self, frame: pb.Task, blobs: list[StoredBlob]) -> None:
        """Send a task; its blobs follow, but for those that the worker was sent before."""
        for blob in blobs:
            held = blob in self._held
            frame.blobs.add(id=blob.id, digest=blob.digest, nbytes=len(blob.data), held=held)
        self._send(pb.ServerFrame(task=frame))
        self._current = (frame.id, frame.attempt)
        self._offered = {blob.id: blob for blob in blobs}
        for blob in self._offered.values():
            if blob not in self._held:
                self._bulk.append(blob)
                self._held.add(blob)

    def cancel(self, task: int, attempt: int) -> None:
        """Tell the worker to drop a task."""
        self._bulk.clear()
        self._generation += 1
        self._current = None
        if self._reply is not None:
            self._incoming.forget(blob.id for blob in self._reply.reply.blobs)
            self._reply = None
        for blob in self._offered.values():
            # It may not have been sent yet, so it is offered again with the next task.
            self._held.discard(blob)
        self._send(pb.ServerFrame(cancel=pb.Cancel(task=task, attempt=attempt)))

    def welcome(self, welcome: pb.Welcome) -> None:
        """Answer the worker's Hello."""
        self._send(pb.ServerFrame(welcome=welcome))

    def close(self, reason: str) -> None:
        """Say goodbye and let the stream end."""
        if not self._closing:
            self._send(pb.ServerFrame(goodbye=pb.Goodbye(reason=reason)))
            self._closing = True
            self._wake.set()

    async def pump(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Write what there is to write until the session is closed; control frames go first."""
        while True:
            await self._flush(write)
            if self._bulk:
                await self._send_blob(self._bulk.popleft(), write)
            elif self._closing and not self._control:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _flush(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        while self._control:
            frame = self._control.popleft()
            self._driver.bytes_down += len(frame)
            await write(frame)

    async def _send_blob(self, blob: StoredBlob, write: Callable[[bytes], Awaitable[None]]) -> None:
        generation = self._generation
        for frame in frames.data(blob.id, blob.data):
            await self._flush(write)
            if generation != self._generation:
                return  # cancelled: the worker has been told to forget what it has of this
            self._driver.bytes_down += len(frame)
            await write(frame)

    def _send(self, frame: pb.ServerFrame) -> None:
        self._control.append(frames.control(frame))
        self._wake.set()

    # ------------------------------------------------------------- in

    async def receive(self, frame: bytes) -> None:
        """A frame has come; Rejected breaks the session."""
        self._driver.bytes_up += len(frame)
        if frames.is_data(frame):
            whole = self._incoming.write(*frames.read_data(frame))
            if whole and self._reply is not None and not self._incoming.waiting:
                await self._complete()
            return
        message = frames.read_control(frame, pb.WorkerFrame)
        match message.WhichOneof("kind"):
            case "ready":
                self._driver.ready(self)
            case "need":
                self._resend(message.need)
            case "reply":
                await self._begin_reply(message.reply)
            case "app_broken":
                self._app_broken(message.app_broken.traceback)
            case other:
                raise Rejected(f"frame {other!r} does not belong here")

    def _resend(self, need: pb.Need) -> None:
        if self._current != (need.task, need.attempt):
            return  # asked before the worker heard that the task was taken back
        for number in need.blobs:
            if number not in self._offered:
                raise Rejected(f"blob {number} was asked for and never offered")
            self._bulk.append(self._offered[number])
        self._wake.set()

    async def _begin_reply(self, reply: pb.Reply) -> None:
        if self._reply is not None:
            raise Rejected("a reply began before the one before was whole")
        known = self._driver.blobs_of(self, reply)
        if known is None:
            self._settled(reply, "nobody waits for this reply any more")
            return
        check_announced(reply.blobs, MAX_REPLY_BYTES)
        partial = _Partial(reply, [])
        for blob in reply.blobs:
            if blob.held:
                if blob.digest not in known:
                    raise Rejected("a reply refers to bytes that the server did not send")
                partial.blobs.append(known[blob.digest].data)
                continue
            # Not zeroed first: every byte is written before anything reads it.
            into = np.empty(blob.nbytes, np.uint8).data
            self._incoming.expect(blob, into)
            partial.blobs.append(into)
        self._reply = partial
        if not self._incoming.waiting:
            await self._complete()

    async def _complete(self) -> None:
        partial, self._reply = self._reply, None
        assert partial is not None
        refused = await self._driver.answered(self, Answer(partial.reply, partial.blobs))
        self._settled(partial.reply, refused)

    def _settled(self, reply: pb.Reply, refused: str) -> None:
        self._send(
            pb.ServerFrame(
                settled=pb.Settled(task=reply.task, attempt=reply.attempt, refused=refused)
            )
        )


class _Partial:
    """A reply whose bytes are still coming."""

    __slots__ = ("blobs", "reply")

    def __init__(self, reply: pb.Reply, blobs: list[memoryview]) -> None:
        self.reply = reply
        self.blobs = blobs
