"""The workers of a server, or of a relay: who may connect, and what becomes of their sessions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio

from fedkube.core import heap
from fedkube.core.errors import FedKubeError, Rejected
from fedkube.pki.authority import seconds_left
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels, frames
from fedkube.wire.identity import Role
from fedkube.wire.limits import HELLO_S, PROTOCOL, RESUME_S
from fedkube_server.sessions import EXPIRED, Session, Shared

log = logging.getLogger("fedkube.server")


class Workers:
    """Serves workers' sessions. All of it runs on one event loop.

    ``clients_of``: which clients a worker may serve, by its certificate's name and its own; None:
    any.
    """

    def __init__(
        self,
        run: str,
        shared: Shared,
        welcome: Callable[[], pb.Welcome],
        clients_of: Callable[[str, str], frozenset[int] | None],
    ) -> None:
        self._run = run
        self._shared = shared
        self._driver = shared.driver
        self._welcome = welcome
        self._clients_of = clients_of
        self._sessions: dict[str, Session] = {}
        self._pumps: dict[str, asyncio.Task[None]] = {}  # of workers that are connected
        self._leaving: dict[str, asyncio.TimerHandle] = {}  # of workers that were cut off
        self._looking: asyncio.Task[None] | None = None
        self._over = False
        self._residents = heap.Residents()

    def handler(self) -> Any:
        """For the gRPC server; array bytes pass through as they are."""
        return grpc.method_handlers_generic_handler(
            "fedkube.v1.Exchange",
            {"Session": grpc.stream_stream_rpc_method_handler(self._session)},
        )

    def close(self, reason: str) -> None:
        """Send the workers home."""
        self._over = True
        for session in list(self._sessions.values()):
            session.close(reason)

    def ban(self, clients: Mapping[int, str]) -> None:
        """Send the workers of these clients away; what has not come whole is dropped.

        ``clients``: by each, why.
        """
        for session in list(self._sessions.values()):
            reasons = [clients[each] for each in session.clients or () if each in clients]
            if reasons:
                session.banned = reasons[0]
                log.warning("%s: worker %s is sent away", session.banned, session.name)
                if session.name in self._leaving:
                    self._leaving.pop(session.name).cancel()
                self._retire(session, session.banned)
                if session.name in self._pumps:
                    self._pumps[session.name].cancel()

    async def _session(self, _: AsyncIterator[bytes], context: Any) -> None:
        try:
            identity = channels.peer_identity(context, self._run, Role.WORKER, Role.RELAY)
            until = expires(context, self._shared.clock)
            hello = await self._greet(context, identity.name)
            clients = self._clients_of(identity.name, hello.worker)
            if self._is_taken(hello):
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, _TAKEN)
                return
            session = self._seat(hello, clients, relays=identity.role is Role.RELAY)
            session.expires = until
        except TimeoutError:
            late = f"the worker said no Hello in {HELLO_S:g} s"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, late)
            return
        except Rejected as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.message)
            return
        pump = asyncio.create_task(session.pump(context.write))
        self._pumps[session.name] = pump

        def current() -> bool:
            return self._pumps.get(session.name) is pump

        broken = ""
        try:
            if self._over:
                session.close("the run is over")
            await _read_until_closed(session, context, pump, current)
        except Rejected as error:
            broken = error.message
        except FedKubeError as error:
            self._shared.broken(error)
        finally:
            pump.cancel()
            if current():
                del self._pumps[session.name]
                self._cut(session, broken)
        if session.banned:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, session.banned)
        if broken:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, broken)
        if session.trouble:
            # It may try again, once its link is what it was: what it had is given to others.
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, session.trouble)

    async def _greet(self, context: Any, name: str) -> pb.Hello:
        first = await asyncio.wait_for(context.read(), HELLO_S)
        if first is grpc.aio.EOF or frames.is_data(first):
            raise Rejected("a session begins with Hello")
        hello = frames.read_control(first, pb.WorkerFrame).hello
        if hello.protocol != PROTOCOL:
            raise Rejected(
                f"the worker (fedkube {hello.version}) speaks version {hello.protocol} of the "
                f"exchange, and this server {PROTOCOL}; use the same release of fedkube on both "
                "ends"
            )
        # The pods of one group share a certificate; each goes by the group's name and its own.
        if hello.worker != name and not hello.worker.startswith(f"{name}."):
            raise Rejected(f"the certificate is for {name!r}, and {hello.worker!r} says hello")
        return hello

    def _is_taken(self, hello: pb.Hello) -> bool:
        """Whether a process that began later has this worker's place.

        One whose Hello came late must not send the newer one away; it may try again, and has the
        place when that is gone.
        """
        session = self._sessions.get(hello.worker)
        if session is None or session.incarnation == hello.incarnation:
            return False
        taken = hello.began < session.began
        if taken:
            log.warning("two processes say that they are %s: the newer one is", session.name)
        return taken

    def _seat(self, hello: pb.Hello, clients: frozenset[int] | None, *, relays: bool) -> Session:
        """The worker's session: the one it had before a cut, or a new one."""
        name = hello.worker
        session = self._sessions.get(name)
        if name in self._leaving:
            self._leaving.pop(name).cancel()
        if session is not None and hello.incarnation and session.incarnation == hello.incarnation:
            if name in self._pumps:
                self._pumps.pop(name).cancel()  # of a stream whose end nobody told us of
        else:
            if session is not None:
                log.warning("worker %s connected again; its older session is closed", name)
                self._retire(session, "the worker connected again")
                session.close("a newer session took this place")
            session = Session(name, hello.incarnation, self._shared, clients, relays=relays)
            session.began = hello.began
            self._sessions[name] = session
            self._driver.join(session)
        self._residents.came(len(self._sessions))
        session.greet(self._welcome(), hello)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return session

    def _cut(self, session: Session, broken: str) -> None:
        """A stream has ended: the worker may go on, unless it broke a rule or was too slow."""
        if session.banned:
            return  # it has been retired
        if broken or session.trouble:
            reason = f"worker {session.name} broke a rule of the exchange: {broken}"
            if session.trouble:
                reason = f"worker {session.name} was given up: {session.trouble}"
            log.warning("%s", reason)
            self._retire(session, reason)
        elif self._over:
            self._retire(session, "the run is over")
        else:
            loop = asyncio.get_running_loop()
            self._leaving[session.name] = loop.call_later(
                RESUME_S, self._retire, session, "the worker was lost"
            )

    def _retire(self, session: Session, reason: str) -> None:
        """The worker is gone for good."""
        if self._sessions.get(session.name) is session:
            del self._sessions[session.name]
            self._driver.leave(session, reason)
            session.end()

    async def _look(self) -> None:
        """Now and then, see whether somebody is too slow, or was let in long enough ago."""
        while True:
            await asyncio.sleep(1.0)
            now = self._shared.clock()
            for name, pump in list(self._pumps.items()):
                session = self._sessions.get(name)
                if session is not None and (trouble := session.look(now)):
                    session.trouble = trouble
                    pump.cancel()


_TAKEN = "a newer process has this worker's place"


def expires(context: Any, clock: Callable[[], float] = time.monotonic) -> float:
    """When the caller's certificate does, by this clock; Rejected where it has.

    TLS looks at it when a connection begins, and a connection may have many calls.
    """
    left = seconds_left(channels.peer_certificate(context), datetime.now(UTC))
    if left <= 0:
        raise Rejected(EXPIRED)
    return clock() + left


async def _read_until_closed(
    session: Session, context: Any, pump: asyncio.Task[None], current: Callable[[], bool]
) -> None:
    """Feed frames to the session until either side is through."""
    read: Awaitable[None] = _read(session, context, current)
    reader = asyncio.ensure_future(read)
    try:
        await asyncio.wait({reader, pump}, return_when=asyncio.FIRST_COMPLETED)
        if reader.done():
            reader.result()
    finally:
        reader.cancel()


async def _read(session: Session, context: Any, current: Callable[[], bool]) -> None:
    while (frame := await context.read()) is not grpc.aio.EOF:
        if not current():
            return  # a newer stream has taken over, and asked for what had not come by then
        await session.receive(frame)
        del frame  # or each of thousands of idle workers would keep a megabyte here
