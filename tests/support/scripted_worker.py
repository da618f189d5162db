"""A worker that says exactly what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import grpc
import grpc.aio
from grpc._cython import cygrpc

from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels, frames
from fedkube.wire.limits import PROTOCOL
from fedkube.wire.tensors import digest


def all_frames(blob: int, data: bytes, start: int = 0) -> list[bytes]:
    bulk = deque([(blob, [memoryview(data)], start)])
    made = []
    while bulk:
        made.append(frames.next_data(bulk))
    return made


def parts(frame: bytes) -> list[tuple[int, int, bytes]]:
    return [(blob, offset, bytes(data)) for blob, offset, data in frames.read_data(frame)]


class _Call:
    """The core of grpc's call, but that a write which fails leaves the call's status alone.

    It would be INTERNAL from then on, whatever the server has said.
    """

    def __init__(self, core) -> None:
        self._core = core

    def __getattr__(self, name):
        return getattr(self._core, name)

    async def send_serialized_message(self, message: bytes) -> None:
        with contextlib.suppress(cygrpc.InternalError):
            await self._core.send_serialized_message(message)


class Worker:
    """A worker that says exactly what a test wants."""

    def __init__(self, channel, name: str = "worker-0", uploads: int = 0) -> None:
        self.channel = channel
        self.call = channel.stream_stream(channels.SESSION)()
        self.call._cython_call = _Call(self.call._cython_call)
        self.name = name
        self.uploads = uploads

    async def hello(self, **changes) -> pb.Welcome:
        hello = {"protocol": PROTOCOL, "worker": self.name, **changes}
        await self.send(hello=pb.Hello(**hello))
        return (await self.control()).welcome

    async def send(self, **kind) -> None:
        await self.write(frames.control(pb.WorkerFrame(**kind)))

    async def write(self, frame: bytes) -> None:
        """Send a frame; where the server has hung up already, what is read next tells why."""
        if not self.call.done():
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self.call.write(frame)

    async def frame(self) -> bytes:
        return await asyncio.wait_for(self.call.read(), 25)

    async def control(self) -> pb.ServerFrame:
        """The next control frame but for those that say how far data has come."""
        while True:
            frame = await self.frame()
            assert frame is not grpc.aio.EOF, await self.call.details()
            message = frames.read_control(frame, pb.ServerFrame)
            if not message.HasField("received"):
                return message

    async def task(self) -> tuple[pb.Task, bytes]:
        """The next task and the bytes that come with it."""
        await self.send(ready=pb.Ready())
        task = (await self.control()).task
        data = b""
        while len(data) < sum(blob.nbytes for blob in task.blobs if not blob.held):
            data += parts(await self.frame())[0][2]
        return task, data

    async def reply(self, task: pb.Task, data: bytes, **changes) -> None:
        """A reply with one array; ``changes`` are to its blob."""
        self.uploads += 1
        blob = {"id": self.uploads, "digest": digest(data), "nbytes": len(data), **changes}
        outcome = pb.Outcome(call=task.calls[0].id, content=task.content)
        reply = pb.Reply(upload=self.uploads, assignment=task.assignment, outcomes=[outcome])
        reply.blobs.add(**blob)
        await self.send(reply=reply)

    async def data(self, data: bytes) -> None:
        """The bytes of the newest reply, which the server asks for first."""
        need = (await self.control()).need
        assert need.of == self.uploads
        assert [(want.blob, want.offset) for want in need.wants] == [(self.uploads, 0)]
        for frame in all_frames(self.uploads, data):
            await self.write(frame)

    async def settled(self) -> pb.Settled:
        while not (frame := await self.control()).HasField("settled"):
            pass
        return frame.settled

    async def how_it_ended(self) -> tuple[grpc.StatusCode, str]:
        try:
            while (await self.frame()) is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        return await self.call.code(), await self.call.details()
