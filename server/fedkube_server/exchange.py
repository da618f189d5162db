"""A server's port: workers' sessions, and the control calls of whoever has launched it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from fedkube.core.errors import FedKubeError, Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels
from fedkube.wire.identity import Role
from fedkube_server.credits import Credits
from fedkube_server.driver import Driver
from fedkube_server.landing import Spool
from fedkube_server.recorder import Recorder
from fedkube_server.seats import Seats
from fedkube_server.sessions import EXPIRED, Shared
from fedkube_server.workers import Workers, expires

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
        spool: Spool,
        broken: Callable[[FedKubeError], None],
        seats: Seats,
    ) -> None:
        self._run = run
        self._driver = driver
        self._recorder = recorder
        self._stop = stop
        self._seats = seats
        shared = Shared(driver, spool, Credits(), app_broken, broken)
        self._workers = Workers(run, shared, welcome, seats.clients_of)
        self._banning = asyncio.Lock()  # bans are written down in the order in which they came
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
                "Ban": grpc.unary_unary_rpc_method_handler(
                    self._ban, pb.BanRequest.FromString, pb.BanReply.SerializeToString
                ),
            },
        )
        return [self._workers.handler(), control]

    def changed(self) -> None:
        """Something that a watcher would see is new."""
        for event in self._watchers:
            event.set()

    def close(self, reason: str) -> None:
        """Send the workers home and let the watchers see the end."""
        self._over = True
        self._workers.close(reason)
        self.changed()

    # ------------------------------------------------------------- the launcher

    async def _watch(self, _: pb.WatchRequest, context: Any) -> AsyncIterator[pb.Snapshot]:
        until = await self._operator(context)
        event = asyncio.Event()
        event.set()
        self._watchers.add(event)
        seen = 0
        try:
            while True:
                try:
                    await asyncio.wait_for(event.wait(), until - time.monotonic())
                except TimeoutError:
                    await context.abort(grpc.StatusCode.PERMISSION_DENIED, EXPIRED)
                event.clear()
                over = self._over
                snapshot, seen = self._recorder.snapshot(
                    seen, self._driver.running, self._driver.workers
                )
                if not over:  # at the end everybody leaves
                    snapshot.absent.extend(self._seats.absent())
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

    async def _ban(self, request: pb.BanRequest, context: Any) -> pb.BanReply:
        await self._operator(context)
        async with self._banning:
            try:
                clients = self._seats.ban(request.sites)
            except Rejected as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            self._workers.ban(clients)
            self._driver.ban(clients)
            self.changed()
            try:
                await asyncio.to_thread(self._recorder.banned, self._seats.banned)
            except FedKubeError as error:
                # In force, and the next life of this server would know nothing of it: ask again.
                await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)
        return pb.BanReply()

    async def _operator(self, context: Any) -> float:
        """Let operators pass: until when, in seconds that never jump."""
        try:
            channels.peer_identity(context, self._run, Role.OPERATOR)
            return expires(context)
        except Rejected as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.message)
            raise
