from __future__ import annotations

import asyncio

import pytest

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.limits import CHUNK_BYTES
from fedkube.wire.stream import Stream


class Sent:
    """What a stream has to write, as far as it goes without waiting."""

    def __init__(self, stream: Stream) -> None:
        self._frames = stream._frames()
        self._next = None

    async def now(self) -> list:
        """Control messages, and (blob, offset, length) of data."""
        out = []
        while True:
            self._next = self._next or asyncio.ensure_future(anext(self._frames))
            for _ in range(5):
                await asyncio.sleep(0)
            if not self._next.done():
                return out
            frame, self._next = self._next.result(), None
            if frames.is_data(frame):
                out += [(blob, at, len(data)) for blob, at, data in frames.read_data(frame)]
            else:
                out.append(frames.read_control(frame, pb.WorkerFrame))

    async def close(self) -> None:
        self._next.cancel()
        await asyncio.gather(self._next, return_exceptions=True)


def play(scenario):
    async def run():
        stream = Stream(None, asyncio.get_running_loop().time)
        sent = Sent(stream)
        try:
            await scenario(stream, sent)
        finally:
            await sent.close()

    asyncio.run(run())


def test_a_large_upload_goes_chunk_by_chunk_and_control_frames_pass_it():
    async def scenario(stream, sent):
        stream.send_data(7, [memoryview(bytes(3 * CHUNK_BYTES))], 0)
        probe, first = await sent.now()
        assert probe.probe.number == 1
        assert first == (7, 0, CHUNK_BYTES)
        stream.send(frames.control(pb.WorkerFrame(ready=pb.Ready())))
        (ready,) = await sent.now()
        assert ready.HasField("ready")
        stream.received(pb.Received(bytes=CHUNK_BYTES + 21, probe=1))
        assert await sent.now() == [(7, CHUNK_BYTES, CHUNK_BYTES)]

    play(scenario)


def test_little_goes_at_once_and_without_a_question():
    async def scenario(stream, sent):
        for number in range(10):
            stream.send_data(number, [memoryview(bytes(20_000))], 0)
            assert await sent.now() == [(number, 0, 20_000)]

    play(scenario)


def test_what_is_not_wanted_any_more_leaves_room_for_what_is():
    async def scenario(stream, sent):
        stream.send_data(1, [memoryview(bytes(3 * CHUNK_BYTES))], 0)
        await sent.now()
        stream.forget([1])
        stream.send_data(2, [memoryview(bytes(100))], 0)
        assert await sent.now() == []
        stream.received(pb.Received(bytes=CHUNK_BYTES + 21))
        assert await sent.now() == [(2, 0, 100)]

    play(scenario)


def test_a_server_that_has_received_what_was_never_sent():
    async def scenario(stream, sent):
        await sent.now()
        with pytest.raises(Rejected, match="of 0 that were sent"):
            stream.received(pb.Received(bytes=1))

    play(scenario)
