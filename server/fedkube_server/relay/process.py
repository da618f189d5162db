"""A relay's parts put together: a port for workers, and a stream to the server above."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedkube.core.tasks import Dispatcher
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import channels
from fedkube.wire.stream import Connect, attend
from fedkube.wire.uploads import Uploads
from fedkube_server.blobs import BlobStore
from fedkube_server.calls import ClientState
from fedkube_server.credits import Credits
from fedkube_server.driver import Driver
from fedkube_server.landing import Spool
from fedkube_server.relay.desk import Desk
from fedkube_server.relay.fetches import Fetches
from fedkube_server.relay.upstream import Upstream
from fedkube_server.sessions import Shared
from fedkube_server.workers import Workers

# How long workers may take to hear that the run is over.
_FAREWELL_S = 1.0


class Relay:
    """One relay, on the running event loop.

    ``listen``: HOST:PORT for workers. ``spool``: a folder for what does not fit into memory.
    ``announce``: called with the port when workers may come. ``connect``, ``serve``: how a channel
    to the server above is made, and a server for those below; ``clock``: seconds that never jump.
    """

    def __init__(
        self,
        name: str,
        credentials: channels.Credentials,
        listen: str,
        spool: Path,
        announce: Callable[[int], None],
        connect: Connect = channels.connect,
        serve: Callable[..., tuple[Any, int]] = channels.serve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._connect = connect
        self._serve = serve
        self._listen = listen
        self._announce = announce
        store = BlobStore()
        self._dispatcher = Dispatcher(patient=True)
        # A client's state comes with its call and goes up with its reply: none is kept here.
        driver = Driver(asyncio.get_running_loop(), self._dispatcher, lambda answer: ClientState())
        uploads = Uploads()
        desk = Desk(driver, uploads)
        self._dispatcher.more = desk.more
        self._upstream = Upstream(
            name, desk, uploads, Fetches(store), lambda: driver.workers, self._welcomed
        )
        driver.seated = lambda _: self._upstream.tell_capacity()
        self._shared = Shared(
            driver,
            Spool(spool),
            Credits(),
            self._upstream.app_broken,
            self._upstream.broken,
            clock,
        )
        self._workers: Workers | None = None
        self._server: Any = None
        self._starting: asyncio.Task[None] | None = None

    async def run(self, address: str, give_up_s: float) -> None:
        """Serve until the server above says goodbye; Refused if it will not have us."""
        grace_s = 0.0
        try:
            await attend(self._upstream, address, self._credentials, give_up_s, self._connect)
            # Only now: without a goodbye, workers look for another life of this relay.
            if self._workers is not None:
                self._workers.close("the run is over")
                grace_s = _FAREWELL_S
        finally:
            if self._server is not None:
                await self._server.stop(grace_s)

    def _welcomed(self, welcome: pb.Welcome) -> None:
        """What the server says to us holds for our workers."""
        self._dispatcher.max_attempts = welcome.max_attempts or self._dispatcher.max_attempts
        self._workers = Workers(welcome.run, self._shared, lambda: welcome, lambda *_: None)
        self._server, port = self._serve(self._listen, self._credentials, [self._workers.handler()])
        self._starting = asyncio.ensure_future(self._server.start())
        self._starting.add_done_callback(lambda _: self._announce(port))
