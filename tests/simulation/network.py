"""Connections that are slow, that break, and of whose end the two sides hear at other times."""

from __future__ import annotations

import asyncio
import functools
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio

from fedkube.pki.authority import Authority
from fedkube.wire import channels
from fedkube.wire.identity import Identity, Role

# A side that hears nothing gives the connection up, as gRPC's keepalive does.
_KEEPALIVE_S = 20.0

# Frames that may be on their way before whoever writes has to wait.
_WINDOW = 4

Handler = Callable[[Any, Any], Awaitable[None]]


class _Aborted(Exception):
    """The handler has ended its call with a status."""


class _Pipe:
    """One direction of a connection: frames come in their order, each after a while."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chance: random.Random) -> None:
        self._loop = loop
        self._chance = chance
        self._there: asyncio.Queue[Any] = asyncio.Queue()
        self._last = 0.0
        self._on_the_way: deque[Any] = deque()
        self.blocked_until = 0.0
        self.broken = False
        self.moved = asyncio.Event()

    def send(self, frame: Any) -> None:
        delay = self._chance.choice((0.0002, 0.001, 0.001, 0.02, 0.2))
        self._last = max(self._last, self._loop.time() + delay, self.blocked_until)
        self._on_the_way.append(frame)
        self._loop.call_at(self._last, self._arrive)

    def _arrive(self) -> None:
        if self._loop.time() < self.blocked_until:
            self._loop.call_at(self.blocked_until, self._arrive)
            return
        frame = self._on_the_way.popleft()  # whatever the order of timers of one time
        self.moved.set()
        if not self.broken:
            self._there.put_nowait(frame)

    async def room(self) -> None:
        while len(self._on_the_way) >= _WINDOW and not self.broken:
            self.moved.clear()
            await self.moved.wait()

    def end(self, mark: Any) -> None:
        """What comes after the frames that have arrived."""
        self.broken = True
        self.moved.set()
        self._there.put_nowait(mark)

    async def receive(self) -> Any:
        return await self._there.get()


class Connection:
    """One stream between a worker, or a relay, and the server at an address."""

    def __init__(self, network: Network, name: str, role: Role, address: str) -> None:
        self._network = network
        self._loop = network.loop
        self.name = name
        self.role = role
        self.address = address
        self.up = _Pipe(network.loop, network.chance)
        self.down = _Pipe(network.loop, network.chance)
        self._handling: asyncio.Task[None] | None = None
        self._feeding: asyncio.Task[None] | None = None
        self.open = True

    # ------------------------------------------------------------- faults

    def cut(self, worker_after: float = 0.0, server_after: float = 0.0) -> None:
        """Break it; each side hears of it after so many seconds, and what was sent may yet come."""
        self.open = False
        self._network.forget(self)
        self._loop.call_later(worker_after, self._tell_worker)
        self._loop.call_later(server_after, self._tell_server)

    def block(self, up: bool, down: bool, seconds: float) -> None:
        """Nothing passes for a while; too long a while, and it is given up."""
        until = self._loop.time() + seconds
        for pipe, hit in ((self.up, up), (self.down, down)):
            if hit:
                pipe.blocked_until = max(pipe.blocked_until, until)
        if seconds > _KEEPALIVE_S:
            # Each side waits for the other's answers to its own pings.
            self.cut(_KEEPALIVE_S, _KEEPALIVE_S)

    def _tell_worker(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
        self.down.end(grpc.StatusCode.UNAVAILABLE)

    def _tell_server(self) -> None:
        self.up.broken = True
        if self._handling is not None:
            self._handling.cancel()

    # ------------------------------------------------------------- the worker's side

    def call(self, outgoing: AsyncIterator[bytes], handler: Handler) -> _Call:
        """Open the stream."""
        self._feeding = self._loop.create_task(self._feed(outgoing))
        self._loop.call_later(0.001, self._accept, handler)
        return _Call(self)

    async def _feed(self, outgoing: AsyncIterator[bytes]) -> None:
        async for frame in outgoing:
            await self.up.room()
            self._network.tell(f"{self.name} -> {len(frame)} bytes")
            self.up.send(bytes(frame))

    def close(self) -> None:
        """The worker is through with it, or dead."""
        if self.open:
            self.cut()

    # ------------------------------------------------------------- the server's side

    def _accept(self, handler: Handler) -> None:
        if self.open:
            self._handling = self._loop.create_task(self._handle(handler))

    async def _handle(self, handler: Handler) -> None:
        status: Any = None
        try:
            await handler(None, _Context(self))
        except _Aborted as aborted:
            status = aborted.args
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self._network.broke(error)
            return
        self.open = False
        self._network.forget(self)
        self.down.send(status or grpc.aio.EOF)

    def kill_server(self) -> None:
        """The server's process is gone: nothing of its handler happens any more."""
        self.cut(self._network.chance.choice((0.0, 0.05)), 0.0)
        if self._handling is not None:
            self._handling.cancel()


class _Context:
    """What a handler of gRPC's has of a stream."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def auth_context(self) -> dict[str, list[bytes]]:
        peer = self._connection
        uri = Identity(peer._network.run, peer.role, peer.name).uri()
        return {
            "x509_subject_alternative_name": [uri.encode()],
            "x509_pem_cert": [_certificate()],
        }

    async def read(self) -> Any:
        return await self._connection.up.receive()

    async def write(self, frame: bytes) -> None:
        connection = self._connection
        await connection.down.room()
        connection._network.tell(f"{connection.name} <- {len(frame)} bytes")
        connection.down.send(bytes(frame))

    async def abort(self, code: Any, details: str) -> None:
        raise _Aborted(code, details)


class _Call:
    """The worker's end of a stream."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def cancel(self) -> None:
        self._connection.down.end(asyncio.CancelledError)
        self._connection.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            frame = await self._connection.down.receive()
            if frame is grpc.aio.EOF:
                return
            if frame is asyncio.CancelledError:
                raise asyncio.CancelledError
            if isinstance(frame, grpc.StatusCode):
                raise _error(frame, "the connection was lost")
            if isinstance(frame, tuple):
                raise _error(*frame)
            yield frame


class _Channel:
    def __init__(self, network: Network, *of_connection: Any) -> None:
        self._network = network
        self._of_connection = of_connection
        self._connection: Connection | None = None

    async def __aenter__(self) -> _Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def stream_stream(self, _: str) -> Callable[[AsyncIterator[bytes]], Any]:
        def begin(outgoing: AsyncIterator[bytes]) -> Any:
            connection = Connection(self._network, *self._of_connection)
            handler = self._network.handlers.get(connection.address)
            if handler is None:
                raise _error(grpc.StatusCode.UNAVAILABLE, "nobody listens")
            self._connection = connection
            self._network.open.append(connection)
            return self._connection.call(outgoing, handler)

        return begin


class Network:
    """Between the workers, relays and whichever server there is.

    ``handlers``: of those who listen, by address. ``broke``: a handler raised. ``tell``: what
    passes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        chance: random.Random,
        run: str,
        broke: Callable[[BaseException], None],
        tell: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self.chance = chance
        self.run = run
        self.broke = broke
        self.tell = tell
        self.handlers: dict[str, Handler] = {}
        self.open: list[Connection] = []

    def connect(self, name: str, role: Role, address: str) -> Any:
        """A worker's or a relay's channel to who listens at an address."""
        return _Channel(self, name, role, address)

    def serve(self, address: str, _: Any, handlers: Any) -> tuple[Any, int]:
        """As ``channels.serve``, for a relay."""
        return _Listener(self, address, handlers[0]), 0

    def forget(self, connection: Connection) -> None:
        if connection in self.open:
            self.open.remove(connection)

    def kill_server(self, address: str) -> None:
        """The one at this address is gone, with every connection to it."""
        self.handlers.pop(address, None)
        for connection in self.to(address):
            connection.kill_server()

    def to(self, address: str) -> list[Connection]:
        """The open ones to an address."""
        return [each for each in self.open if each.address == address]


class _Listener:
    """What a relay has of a gRPC server."""

    def __init__(self, network: Network, address: str, handlers: grpc.GenericRpcHandler) -> None:
        self._network = network
        self._address = address
        self._handler = handlers.service(_Session()).stream_stream

    async def start(self) -> None:
        self._network.handlers[self._address] = self._handler

    async def stop(self, grace_s: float) -> None:
        self._network.handlers.pop(self._address, None)
        if self._network.to(self._address):
            await asyncio.sleep(grace_s)
        self._network.kill_server(self._address)


class _Session:
    """Details of the one call that there is."""

    method = channels.SESSION


@functools.cache
def _certificate() -> bytes:
    """Any: that it has not expired is all that is read of it."""
    authority = Authority("simulated", datetime.now(UTC), timedelta(days=1))
    return authority.issue("simulated", "spiffe://simulated", [], server=False, client=True)[0]


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, empty, empty, details)
