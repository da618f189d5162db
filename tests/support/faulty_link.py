"""A link between two ends on this machine that has whatever faults a test asks for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

# What is passed on at a time.
_PIECE = 65_536
# A throttled way passes on so many pieces a second.
_PACE = 10
# Pieces that are under way at the most.
_LENGTH = 1024


@dataclass
class Way:
    """One direction of a link; its faults may be changed at any time.

    ``delay_s``: each piece comes so much later, as over a long way: others follow it meanwhile. As
    it is when a connection begins.
    ``bytes_per_s``: no faster than this; None: at once. ``passed``: bytes so far.
    """

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    passed: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._open.set()

    def hold(self) -> None:
        """Nothing comes through from now on, and nobody is told."""
        self._open.clear()

    def heal(self) -> None:
        """What was held comes through, and all that follows."""
        self._open.set()

    async def carry(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Write the bytes to the other end, as this way does."""
        size = _PIECE if self.bytes_per_s is None else max(1, int(self.bytes_per_s / _PACE))
        while data:
            await self._open.wait()
            piece, data = data[:size], data[size:]
            writer.write(piece)
            self.passed += len(piece)
            await writer.drain()
            if self.bytes_per_s is None:
                size = _PIECE
            else:
                size = max(1, int(self.bytes_per_s / _PACE))
                await asyncio.sleep(len(piece) / self.bytes_per_s)


class Link:
    """Passes bytes on to a port of this machine, from a port of its own.

    ``breaks_after``: each connection is cut after so many bytes both ways; None: never. ``up`` is
    the way to the port. ``connected_at``: when somebody connected, in seconds that never jump.
    """

    def __init__(self, port: int, breaks_after: int | None = None) -> None:
        self._port = port
        self.breaks_after = breaks_after
        self.breaks = 0
        self.up, self.down = Way(), Way()
        self.refuses = False
        self.connected_at: list[float] = []
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def passed(self) -> int:
        """Bytes both ways so far."""
        return self.up.passed + self.down.passed

    async def open(self) -> str:
        """Listen; the address to connect to."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """End all connections that there are; others may follow."""
        for task in self._connections:
            task.cancel()

    async def close(self) -> None:
        """No more connections."""
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader, writer) -> None:
        self.connected_at.append(time.monotonic())
        if self.refuses:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        self._connections.add(task)
        writers = [writer]
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
                writers.append(there_writer)
                left = [self.breaks_after]
                both = [
                    asyncio.create_task(self._pass(reader, there_writer, self.up, left)),
                    asyncio.create_task(self._pass(there_reader, writer, self.down, left)),
                ]
                try:
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for each in both:
                        each.cancel()
        finally:
            self._connections.discard(task)
            for each in writers:
                each.transport.abort()

    async def _pass(self, reader, writer, way: Way, left: list[int | None]) -> None:
        clock = asyncio.get_running_loop().time
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_LENGTH if way.delay_s else 1)

        async def take_in() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(_PIECE):
                    if left[0] is not None:
                        left[0] -= len(data)
                        if left[0] < 0:
                            self.breaks += 1
                            break
                    await under_way.put((clock() + way.delay_s, data))
            await under_way.put((0.0, b""))

        taking = asyncio.create_task(take_in())
        try:
            with contextlib.suppress(ConnectionError):
                while (piece := await under_way.get())[1]:
                    due, data = piece
                    await asyncio.sleep(max(0.0, due - clock()))
                    await way.carry(data, writer)
        finally:
            taking.cancel()
