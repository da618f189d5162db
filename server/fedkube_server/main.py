"""The server process: the app in the main thread, the exchange on an event loop beside it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from fedkube.app.records import to_values
from fedkube.app.tracebacks import headline
from fedkube.core import heap, ids, logs
from fedkube.core.aggregation import stated
from fedkube.core.errors import AppInvalid, Environment, Exit, FedKubeError, Superseded
from fedkube.core.quantisation import Compression
from fedkube.core.run_states import RunEvent
from fedkube.core.tasks import Dispatcher
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store.journal import Journal
from fedkube.store.run_folder import RunFolder
from fedkube.wire import channels
from fedkube.wire.arguments import credentials_of, options_for_credentials
from fedkube_server import states
from fedkube_server.blobs import BlobStore
from fedkube_server.driver import Driver
from fedkube_server.exchange import Exchange
from fedkube_server.flower import app
from fedkube_server.flower.grid import ExchangeGrid, Federation
from fedkube_server.flower.tracking import Tracker
from fedkube_server.halt import GRACE_S, Ending, Halt, Halted
from fedkube_server.landing import Spool
from fedkube_server.past import Past
from fedkube_server.recorder import Recorder
from fedkube_server.seats import Seats

log = logging.getLogger("fedkube.server")

# How long workers and watchers may take to hear that the run is over.
_FAREWELL_S = 1.0

# Of runs that broke, by the reason; others have failed.
_CODES = {error.__name__: error.exit_code for error in (AppInvalid, Environment, Superseded)}

# How long the app's own exit handlers and threads may take.
_EXIT_S = 5.0


class ServerProcess:
    """One run's server.

    ``announce``: called with the port when workers may come. ``journal``: what earlier lives of the
    server have committed, and where this one commits. ``listen``: in place of what the run says.
    """

    def __init__(
        self,
        folder: RunFolder,
        credentials: channels.Credentials,
        announce: Callable[[int], None],
        journal: Journal | None = None,
        listen: str = "",
    ) -> None:
        self._folder = folder
        self._credentials = credentials
        self._announce = announce
        self._record = folder.read_record()
        goes_on = journal is not None and bool(journal.stored)
        self._began = time.monotonic()
        # A life that was killed could not write down how long it was; its rounds did.
        earlier = folder.histories(self._record.run_id).rounds() if goes_on else ()
        self._before = max(self._record.duration_s, sum(each.seconds for each in earlier))
        self._halt = Halt()
        self._loop = asyncio.new_event_loop()
        self._store = BlobStore()
        self._spool = Spool(folder.path)
        self._first = ids.first_number(secrets.token_bytes(6))
        spec = self._record.spec
        self._listen = listen or spec.server.listen
        self._driver = Driver(
            self._loop,
            Dispatcher(spec.pool.max_attempts, first=self._first),
            lambda answer: states.keep(answer, self._store),
        )
        self._driver.speculates = spec.cohort.speculate
        self._recorder = Recorder(
            folder,
            self._record,
            time.monotonic,
            lambda: (self._driver.bytes_up, self._driver.bytes_down),
            goes_on=goes_on,
        )
        self._past = Past(journal, self._halt)
        self._seats = Seats(spec.sites, spec.cohort.minimum, self._halt)
        self._driver.ban(self._seats.ban(self._record.banned))
        self._driver.seated = self._seats.seated
        self._number = app.run_number(self._record.run_id)
        self._exchange = Exchange(
            self._record.run_id,
            self._driver,
            self._recorder,
            self._welcome,
            self._app_broken,
            self.stop,
            self._spool,
            self._broken,
            self._seats,
        )
        self._finishing = threading.Lock()

    def run(self) -> Exit:
        """Serve until the app has ended, and write down how."""
        thread = threading.Thread(target=self._loop.run_forever, name="exchange", daemon=True)
        thread.start()
        try:
            server = self._call(self._open())
        except FedKubeError as error:
            return self._finish(Ending.of(error), error.exit_code)
        self._halt.on_set(self._watchdog)
        ending = self._execute()
        code = self._finish(ending, _code(ending))
        self._call(self._close(server, ending))
        # A loop that still ran while the interpreter ends would find its files closed.
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join(_FAREWELL_S)
        return code

    def stop(self, reason: str, broken: bool) -> None:
        """End the run: a person wants it, or (``broken``) the launcher sees it cannot go on."""
        if broken:
            self._halt.set(Ending(RunEvent.BROKE, "Broken", reason))
        else:
            self._halt.set(Ending(RunEvent.STOPPED, "Stopped", reason))

    # ------------------------------------------------------------- inside

    def _execute(self) -> Ending:
        spec = self._record.spec
        federation = Federation.of(
            spec.seed,
            spec.pool.clients,
            spec.pool.client_timeout_s,
            Compression(spec.compression),
            self._record.workers,
        )
        try:
            says = stated(spec.run_config)
        except AppInvalid as error:
            return Ending.of(error)
        tracker = Tracker(
            self._recorder, self._halt, federation.node_ids, says, spec.cohort, self._past
        )
        tracker.needs = self._seats.need
        grid = ExchangeGrid(
            app.describe(self._record.run_id),
            federation,
            self._driver,
            self._store,
            tracker,
            self._recorder,
            self._halt,
            self._seats,
            self._past,
            first=self._first,
        )
        if self._past.condensed:
            log.info("going on: what came of %d rounds is there", self._past.condensed)
        if self._past.left:
            log.info("going on: %d replies of earlier are there", self._past.left)
        try:
            ending = app.execute(spec, grid, tracker, self._number)
        except Halted:
            ending = Ending(RunEvent.STOPPED, "Stopped", "the run was ended")
        grid.close()
        if self._halt.ending is not None:
            return self._halt.ending
        if (
            ending.event is RunEvent.FINISHED
            and self._recorder.asked
            and not self._recorder.answered
        ):
            message = "no client ever replied with success"
            return Ending(RunEvent.BROKE, "NoReplies", message, self._recorder.first_failure())
        return ending

    async def _open(self) -> Any:
        self._driver.changed = self._exchange.changed
        loop = self._loop
        self._recorder.changed = _soon(loop, self._exchange.changed)
        server, port = channels.serve(self._listen, self._credentials, self._exchange.handlers())
        await server.start()
        if self._record.started_at is None:
            self._record.started_at = datetime.now(UTC)
        self._recorder.started()
        self._announce(port)
        return server

    async def _close(self, server: Any, ending: Ending) -> None:
        self._exchange.close(f"the run is over: {ending.message}")
        await server.stop(_FAREWELL_S)

    def _call(self, work: Any) -> Any:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result()

    def _welcome(self) -> pb.Welcome:
        spec = self._record.spec
        return pb.Welcome(
            run=self._record.run_id,
            flower_run=self._number,
            run_config=to_values(spec.run_config),
            cache_bytes=spec.pool.cache_bytes or 0,
            partitions=spec.pool.clients,
            max_attempts=spec.pool.max_attempts,
        )

    def _broken(self, error: FedKubeError) -> None:
        self._halt.set(Ending.of(error))

    def _app_broken(self, traceback: str) -> None:
        message = f"the ClientApp cannot be loaded: {headline(traceback)}"
        self._halt.set(Ending(RunEvent.BROKE, "AppInvalid", message, traceback))

    def _watchdog(self) -> None:
        """An app that is busy elsewhere does not notice that its run is over; it gets a moment."""
        timer = threading.Timer(GRACE_S, self._give_up)
        timer.daemon = True
        timer.start()

    def _give_up(self) -> None:
        ending = self._halt.ending
        assert ending is not None
        code = self._finish(ending, _code(ending))
        os._exit(code)

    def _finish(self, ending: Ending, code: Exit) -> Exit:
        with self._finishing:
            record = self._record
            if record.state.final:
                return code
            if ending.reason == Superseded.__name__:
                # The run folder is the successor's.
                log.error("%s", ending.message)
                return code
            record.reason, record.message, record.details = (
                ending.reason,
                ending.message,
                ending.details,
            )
            record.ended_at = datetime.now(UTC)
            record.duration_s = self._before + time.monotonic() - self._began
            try:
                self._recorder.finish(ending.event)
                wanted = record.spec.server.keep_journal
                self._past.close(delete=ending.event is RunEvent.FINISHED and not wanted)
            except FedKubeError as error:
                log.error("%s", error.message)
                return error.exit_code
            return code


def _code(ending: Ending) -> Exit:
    if ending.event is RunEvent.FINISHED:
        return Exit.OK
    if ending.event is RunEvent.STOPPED:
        return Exit.STOPPED
    return _CODES.get(ending.reason, Exit.RUN_FAILED)


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Callable[[], None]:
    """What has it called on the loop, from any thread; once for all that ask until then."""
    asked = False

    def call() -> None:
        nonlocal asked
        asked = False  # before: who asks from now on may have changed something since
        callback()

    def ask() -> None:
        nonlocal asked
        if not asked:
            asked = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody watches any more
                loop.call_soon_threadsafe(call)

    return ask


def _follow_launcher(descriptor: int, server: ServerProcess) -> None:
    """The launcher holds the other end of a pipe; when it dies, however it dies, this ends."""

    def wait() -> None:
        os.read(descriptor, 1)
        server.stop("the launcher ended", broken=True)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def main() -> None:
    """Parse the command line and serve."""
    heap.keep()
    heap.trim_now_and_then()
    parser = argparse.ArgumentParser(prog="fedkube_server", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the run folder, with run.json")
    options_for_credentials(parser)
    parser.add_argument("--listen", default="", help="HOST:PORT, in place of what the run says")
    parser.add_argument("--ready-fd", type=int, help="where to write the port, as a line of JSON")
    parser.add_argument("--lifeline-fd", type=int, help="a pipe; its end ends the run")
    options = parser.parse_args()
    logs.to_stderr(logging.INFO)

    def announce(port: int) -> None:
        if options.ready_fd is not None:
            with os.fdopen(options.ready_fd, "w") as pipe:
                pipe.write(json.dumps({"port": port}) + "\n")

    folder = RunFolder(options.folder)
    try:
        journal = folder.journal(folder.read_record())
    except FedKubeError as error:
        log.error("%s", error.message)
        sys.exit(error.exit_code)
    server = ServerProcess(folder, credentials_of(options), announce, journal, options.listen)
    if options.lifeline_fd is not None:
        _follow_launcher(options.lifeline_fd, server)
    leave(server.run())


def leave(code: int) -> NoReturn:
    """End the process, though the app may have left threads that would keep it alive for ever."""
    insist = threading.Timer(_EXIT_S, os._exit, (code,))
    insist.daemon = True
    insist.start()
    sys.exit(code)
