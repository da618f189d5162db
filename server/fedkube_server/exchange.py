"""The gRPC services: workers' sessions, and the launcher's control calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels, frames
from fedkube.wire.identity import Role
from fedkube.wire.limits import PROTOCOL
from fedkube_server.driver import Driver
from fedkube_server.recorder import Recorder
from fedkube_server.sessions import Session

log = logging.getLogger("fedkube.server")

# A watcher is told at most so often; what happens in between is in the next snapshot.
_WATCH_GAP_S = 0.05


class Exchange:
    """Serves workers and watchers on one port. All of it runs on one event loop."""

    def __init__(
        self,
        run: str,
        driver: Driver,
        recorder: Recorder,
        welcome: Callable[[], pb.Welcome],
        app_broken: Callable[[str], None],
        stop: Callable[[str, bool], None],
    ) -> None:
        self._run = run
        self._driver = driver
        self._recorder = recorder
        self._welcome = welcome
        self._app_broken = app_broken
        self._stop = stop
        self._sessions: dict[str, Session] = {}
        self._watchers: set[asyncio.Event] = set()
        self._over = False

    def handlers(self) -> Any:
        """For the gRPC server; array bytes pass through as they are."""
        control = grpc.method_handlers_generic_handler(
            "fedkube.v1.Control",
            {
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self._watch, pb.WatchRequest.FromString, pb.Snapshot.SerializeToString
                ),
                "Stop": grpc.unary_unary_rpc_method_handler(
                    self._stop_run, pb.StopRequest.FromString, pb.StopReply.SerializeToString
                ),
            },
        )
        exchange = grpc.method_handlers_generic_handler(
            "fedkube.v1.Exchange",
            {"Session": grpc.stream_stream_rpc_method_handler(self._session)},
        )
        return [exchange, control]

    def changed(self) -> None:
        """Something that a watcher would see is new."""
        for event in self._watchers:
            event.set()

    def close(self, reason: str) -> None:
        """Send the workers home and let the watchers see the end."""
        self._over = True
        for session in list(self._sessions.values()):
            session.close(reason)
        self.changed()

    # ------------------------------------------------------------- workers

    async def _session(self, _: AsyncIterator[bytes], context: Any) -> None:
        try:
            identity = channels.peer_identity(context, self._run, Role.WORKER)
            session = await self._greet(context, identity.name)
        except Rejected as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.message)
            return
        older = self._sessions.get(identity.name)
        if older is not None:
            log.warning("worker %s connected again; its older session is closed", identity.name)
            self._driver.leave(older, "the worker connected again")
            older.close("a newer session took this place")
        self._sessions[identity.name] = session
        self._driver.join(session)
        reason = "the worker was lost"
        pump = asyncio.create_task(session.pump(context.write))
        try:
            if self._over:
                session.close("the run is over")
            await _read_until_closed(session, context, pump)
        except Rejected as error:
            reason = f"worker {identity.name} broke a rule of the exchange: {error.message}"
            log.warning("%s", reason)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        finally:
            pump.cancel()
            self._driver.leave(session, reason)
            if self._sessions.get(identity.name) is session:
                del self._sessions[identity.name]

    async def _greet(self, context: Any, name: str) -> Session:
        first = await context.read()
        if first is grpc.aio.EOF or frames.is_data(first):
            raise Rejected("a session begins with Hello")
        hello = frames.read_control(first, pb.WorkerFrame).hello
        if hello.protocol != PROTOCOL:
            raise Rejected(
                f"the worker (fedkube {hello.version}) speaks version {hello.protocol} of the "
                f"exchange, and this server {PROTOCOL}; use the same release of fedkube on both "
                "ends"
            )
        if hello.worker != name:
            raise Rejected(f"the certificate is for {name!r}, and {hello.worker!r} says hello")
        session = Session(name, self._driver, self._app_broken)
        session.welcome(self._welcome())
        return session

    # ------------------------------------------------------------- the launcher

    async def _watch(self, _: pb.WatchRequest, context: Any) -> AsyncIterator[pb.Snapshot]:
        await self._operator(context)
        event = asyncio.Event()
        event.set()
        self._watchers.add(event)
        seen = 0
        try:
            while True:
                await event.wait()
                event.clear()
                over = self._over
                snapshot, seen = self._recorder.snapshot(
                    seen, self._driver.running, self._driver.workers
                )
                yield snapshot
                if over:
                    return
                await asyncio.sleep(_WATCH_GAP_S)
        finally:
            self._watchers.discard(event)

    async def _stop_run(self, request: pb.StopRequest, context: Any) -> pb.StopReply:
        await self._operator(context)
        self._stop(request.reason, request.broken)
        return pb.StopReply()

    async def _operator(self, context: Any) -> None:
        try:
            channels.peer_identity(context, self._run, Role.OPERATOR)
        except Rejected as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.message)


async def _read_until_closed(session: Session, context: Any, pump: asyncio.Task[None]) -> None:
    """Feed frames to the session until either side is through."""
    read: Awaitable[None] = _read(session, context)
    reader = asyncio.ensure_future(read)
    try:
        await asyncio.wait({reader, pump}, return_when=asyncio.FIRST_COMPLETED)
        if reader.done():
            reader.result()
    finally:
        reader.cancel()


async def _read(session: Session, context: Any) -> None:
    while (frame := await context.read()) is not grpc.aio.EOF:
        await session.receive(frame)
