"""A link that breaks all the time."""

from __future__ import annotations

import asyncio
import contextlib


class Link:
    """Passes bytes on to a port, and breaks after so many of them, again and again."""

    def __init__(self, port: int, breaks_after: int) -> None:
        self._port = port
        self._breaks_after = breaks_after
        self.breaks = 0
        self.passed = 0

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()

    async def _connected(self, reader, writer) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        left = [self._breaks_after]
        both = [
            asyncio.create_task(self._pass(reader, there_writer, left)),
            asyncio.create_task(self._pass(there_reader, writer, left)),
        ]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        for each in (writer, there_writer):
            each.transport.abort()

    async def _pass(self, reader, writer, left) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                left[0] -= len(data)
                self.passed += len(data)
                if left[0] < 0:
                    self.breaks += 1
                    return
                writer.write(data)
                await writer.drain()
