"""Launches a run on this machine (a throw-away CA, a server, workers) and sees it through.

Between server and workers there may be relays, with the workers spread evenly over them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from fedkube.core import accelerators
from fedkube.core.errors import GAVE_WAY, Environment, Exit
from fedkube.core.run_states import RunEvent, RunState, move
from fedkube.local.devices import Devices
from fedkube.local.logs import LogBook
from fedkube.local.processes import Child, Lifeline, start
from fedkube.pki.authority import Authority
from fedkube.planner.machine import Plan, Worker
from fedkube.planner.packing import LOOK_S
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store import plots
from fedkube.store.run_folder import RunFolder, RunRecord
from fedkube.wire.channels import Credentials
from fedkube.wire.control import ControlClient
from fedkube.wire.identity import Identity, Role

# No run on a laptop is longer than this; the certificates are gone with the run in any case.
_CERTIFICATES = timedelta(days=30)
# A worker that keeps dying within a minute is not started again more often than this in a row.
_MAX_RESTARTS = 5
_STABLE_S = 60.0
# After Ctrl-C: for the server to answer, then for each process to end.
_STOP_S = 3.0
_END_S = 1.0
# Whether there is a server again.
_LOOK_AGAIN_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger("fedkube.local")


class View(Protocol):
    """Who looks on: a terminal, a log, nobody."""

    def log(self, source: str, line: str) -> None:
        """A process has printed a line."""

    def snapshot(self, snapshot: pb.Snapshot) -> None:
        """Where the run is now."""


class Launcher:
    """One run. ``folder`` has its record, in state Pending."""

    def __init__(self, folder: RunFolder, plan: Plan, view: View, relays: int = 0) -> None:
        self._folder = folder
        self._record = folder.read_record()
        self._plan = plan
        self._relays = relays
        self._devices = Devices(plan)
        self._view = view
        self._log = LogBook(folder.path / "log.txt", view.log)
        self._authority = Authority(
            f"fedkube run {self._record.run_id}", datetime.now(UTC), _CERTIFICATES
        )
        self._lifeline = Lifeline()
        self._stop = asyncio.Event()
        self._insist = asyncio.Event()
        self._stop_reason = ""
        self._broken = ""
        self._over = False
        self._kept: dict[str, Child] = {}

    async def run(self) -> RunRecord:
        """Launch the run and return its record when it has ended, whichever way."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            code = await self._run()
            self._lifeline.close()
            self._log.close()
            return self._conclude(code)
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def stop(self, reason: str) -> None:
        """End the run; its folder will say Stopped and why."""
        self._stop_reason = self._stop_reason or reason
        self._stop.set()

    # ------------------------------------------------------------- the course of a run

    async def _run(self) -> int:
        self._server, port = await self._start_server()
        if port is None:
            return await self._server.wait()
        address = f"127.0.0.1:{port}"
        control = ControlClient(address, self._credentials(Role.OPERATOR))
        async with _background() as background:
            background.append(asyncio.create_task(self._watch(control)))
            self._keep_all(address, background)
            stopped = asyncio.create_task(self._stop.wait())
            ended = asyncio.create_task(self._keep_server(port))
            background += [stopped, ended]
            await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._end_server(control, ended)
            self._over = True
            code = await ended
            await asyncio.gather(*(child.end(_END_S) for child in self._kept.values()))
            await control.close()
        return code

    async def _start_server(self, port: int | None = None) -> tuple[Child, int | None]:
        """Start the server; its port, or None if it could not start.

        ``port``: where an earlier life of it listened, and its workers look for it.
        """
        arguments = ["--folder", str(self._folder.path.resolve())]
        if port is not None:
            arguments += ["--listen", f"127.0.0.1:{port}"]
        return await self._listening(
            "server", "fedkube_server", self._credentials(Role.SERVER), arguments
        )

    async def _keep_server(self, port: int) -> int:
        """See the server through the run: one that is killed goes on. Its last exit code."""
        loop = asyncio.get_running_loop()
        ends = 0
        while True:
            began = loop.time()
            code = await self._server.wait()
            ends = ends + 1 if loop.time() - began < _STABLE_S else 1
            if code >= 0 or self._stop.is_set() or ends > _MAX_RESTARTS:
                return code
            try:
                if not await asyncio.to_thread(self._go_on):
                    return code
            except Environment as error:  # its journal is elsewhere, and cannot be reached
                self._log.write("fedkube", f"the server cannot go on: {error.message}")
                return code
            self._log.write(
                "fedkube", f"server {_ended(code)}; it goes on from what it has committed"
            )
            self._server, _ = await self._start_server(port)

    def _go_on(self) -> bool:
        """Whether the run can, in whose record it is said then."""
        record = self._folder.read_record()
        if record.state.final or not self._folder.has_journal(record):
            return False
        record.state = move(record.state, RunEvent.RESUMED)
        self._folder.write_record(record)
        return True

    async def _listening(
        self, name: str, module: str, credentials: Credentials, arguments: list[str]
    ) -> tuple[Child, int | None]:
        """Start a process that listens; its port, or None if it ended before it did."""
        ready, announce = os.pipe()
        try:
            child = await self._child(
                name,
                module,
                credentials,
                [*arguments, "--ready-fd", str(announce)],
                self._environment(),
                [announce],
            )
        finally:
            os.close(announce)
        with os.fdopen(ready) as pipe:
            # Ends with the line, or with the process.
            line = await asyncio.to_thread(pipe.readline)
        return child, json.loads(line)["port"] if line else None

    async def _child(
        self,
        name: str,
        module: str,
        credentials: Credentials,
        arguments: list[str],
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
    ) -> Child:
        """Start a process that ends with us, and is told who it is by a pipe."""
        tls, tell = os.pipe()
        try:
            os.write(tell, credentials.to_bytes())  # less than a pipe holds
            os.close(tell)
            lifeline = self._lifeline.child_end
            return await start(
                name,
                module,
                ["--tls-fd", str(tls), "--lifeline-fd", str(lifeline), *arguments],
                environment,
                [tls, lifeline, *descriptors],
                self._log,
            )
        finally:
            os.close(tls)

    async def _end_server(self, control: ControlClient, ended: asyncio.Task[int]) -> None:
        """Have the server write down that the run stopped; if it does not answer, end it.

        One that answers is given all the time that it takes, for it may have a large model to
        write; a person who does not want to wait presses Ctrl-C again.
        """
        answered = await control.stop(self._stop_reason, _STOP_S, broken=bool(self._broken))
        insist = asyncio.create_task(self._insist.wait())
        limit = None if answered else _STOP_S
        await asyncio.wait({insist, ended}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        insist.cancel()
        if not ended.done():
            await self._server.end(_END_S)

    async def _watch(self, control: ControlClient) -> None:
        shown: set[int] = set()
        while True:
            async for snapshot in control.watch():
                # A server that goes on tells of the rounds before as well.
                news = [each for each in snapshot.ended if each.round not in shown]
                shown |= {each.round for each in news}
                del snapshot.ended[:]
                snapshot.ended.extend(news)
                with contextlib.suppress(OSError):  # nobody reads our output any more
                    self._view.snapshot(snapshot)
                if self._log.trouble is not None:
                    self.stop(self._log.trouble.message)
            await asyncio.sleep(_LOOK_AGAIN_S)

    # ------------------------------------------------------------- relays and workers

    def _keep_all(self, address: str, background: list[asyncio.Task[Any]]) -> None:
        """Keep relays and workers running, and see when that is hopeless."""
        loop = asyncio.get_running_loop()
        # Where workers connect to: known at once, or when a relay has a port.
        above = [loop.create_future() for _ in range(max(1, self._relays))]
        relays: list[asyncio.Task[bool]] = []
        if self._relays:
            relays = [
                asyncio.create_task(self._keep_relay(index, address, place))
                for index, place in enumerate(above)
            ]
        else:
            above[0].set_result(address)
        workers: list[asyncio.Task[bool]] = []

        def employ(more: Sequence[Worker]) -> None:
            if more and not workers:
                background.append(asyncio.create_task(self._see_hopeless("worker", workers)))
            for worker in more:
                place = above[worker.index % len(above)]
                workers.append(asyncio.create_task(self._keep_worker(worker, place)))
                background.append(workers[-1])

        to_fill = self._devices.to_fill
        first = {worker.gpu: worker for worker in self._plan.workers if worker.gpu in to_fill}
        employ([each for each in self._plan.workers if each not in first.values()])
        background += relays
        if relays:
            background.append(asyncio.create_task(self._see_hopeless("relay", relays)))
        background += [asyncio.create_task(self._fill(gpu, first[gpu], employ)) for gpu in to_fill]

    async def _fill(
        self, gpu: str, first: Worker, employ: Callable[[Sequence[Worker]], None]
    ) -> None:
        """Have a worker on a GPU, and more of them as long as it has memory for them."""
        empty = await asyncio.to_thread(accelerators.read, gpu)
        employ([first])
        if empty is None:
            self._devices.no_more(gpu)
            self._log.write(
                "fedkube",
                f"nvidia-smi does not say how full GPU {gpu} is: one client at a time is on it",
            )
            return
        loop = asyncio.get_running_loop()
        packing = self._devices.begin(gpu, empty)
        while not packing.found:
            await asyncio.sleep(LOOK_S)
            reading = await asyncio.to_thread(accelerators.read, gpu)
            if reading is None:
                continue
            if self._over:
                return
            if more := self._devices.join(gpu, packing.look(loop.time(), reading)):
                self._log.write(
                    "fedkube",
                    f"a client takes {packing.each_bytes / 1e9:.1f} GB of GPU {gpu}: "
                    f"{self._devices.count(more[0])} workers are on it from now on",
                )
                employ(more)

    async def _keep_relay(self, index: int, address: str, place: asyncio.Future[str]) -> bool:
        """Keep one relay running; True if that is hopeless. ``place``: told where it listens."""
        name = f"relay-{index}"
        credentials = self._credentials(Role.RELAY, name)
        spool = str(self._folder.path.resolve())

        async def begin() -> Child:
            # Another life of it listens where its workers look for it.
            listen = place.result() if place.done() else "127.0.0.1:0"
            child, port = await self._listening(
                name,
                "fedkube_server.relay",
                credentials,
                ["--server", address, "--name", name, "--listen", listen, "--spool", spool],
            )
            if port is not None and not place.done():
                place.set_result(f"127.0.0.1:{port}")
            return child

        return await self._keep(name, begin)

    async def _keep_worker(self, worker: Worker, above: asyncio.Future[str]) -> bool:
        """Keep one worker running; True if that is hopeless."""
        name = f"worker-{worker.index}"
        credentials = self._credentials(Role.WORKER, name)
        address = await above

        async def begin() -> Child:
            shares = ["--shares-device"] if self._devices.shared(worker) else []
            return await self._child(
                name,
                "fedkube_client",
                credentials,
                [
                    *("--server", address, "--name", name),
                    *("--app", self._record.spec.app),
                    *("--threads", str(worker.threads)),
                    *("--cache-bytes", str(worker.cache_bytes)),
                    *shares,
                ],
                self._environment(worker.gpu),
            )

        return await self._keep(name, begin, lambda code: self._gave_way(name, worker, code))

    def _gave_way(self, name: str, worker: Worker, code: int) -> bool:
        """Whether a worker ended because memory ran out, and others of its device go on."""
        if code != GAVE_WAY or not self._devices.left(worker):
            return False
        self._log.write(
            "fedkube",
            f"memory ran out on GPU {worker.gpu}: {name} has left it, and "
            f"{self._devices.count(worker)} of its workers go on",
        )
        return True

    async def _keep(
        self,
        name: str,
        begin: Callable[[], Awaitable[Child]],
        gave_way: Callable[[int], bool] = lambda _: False,
    ) -> bool:
        """Keep a process running as long as the run needs it; True if that is hopeless.

        ``gave_way``: whether one that ended with this code is not to be started again.
        """
        loop = asyncio.get_running_loop()
        ends = 0
        while ends <= _MAX_RESTARTS:
            began = loop.time()
            child = self._kept[name] = await begin()
            code = await child.wait()
            if self._over or code == 0:
                return False
            if gave_way(code):
                return True  # those that go on decide whether there is hope
            ends = ends + 1 if loop.time() - began < _STABLE_S else 1
            self._log.write("fedkube", f"{name} {_ended(code)}; starting it again")
            await asyncio.sleep(min(5.0, 0.05 * 2**ends))
        self._log.write("fedkube", f"{name} ended {ends} times in a row; it is given up")
        return True

    async def _see_hopeless(self, what: str, keepers: list[asyncio.Task[bool]]) -> None:
        """Without workers, or without a way to them, the run would wait for ever."""
        done: list[asyncio.Task[bool]] = []
        waiting = keepers
        while waiting and not any(each.exception() for each in done):
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            # There may be more than before.
            done = [each for each in keepers if each.done()]
            waiting = [each for each in keepers if not each.done()]
        error = next((each.exception() for each in done if each.exception()), None)
        if error is not None:
            self._broken = f"a {what} cannot be started: {error}"
        elif not waiting and all(each.result() for each in done):
            self._broken = f"every {what} ended again and again; log.txt has what they printed"
        if self._broken:
            self.stop(self._broken)

    # ------------------------------------------------------------- what children get

    def _credentials(self, role: Role, name: str = "run") -> Credentials:
        identity = Identity(self._record.run_id, role, name)
        serves = role in (Role.SERVER, Role.RELAY)
        certificate, key = self._authority.issue(
            f"{role} {name}",
            identity.uri(),
            ("127.0.0.1", "localhost") if serves else (),
            server=serves,
            client=role is not Role.SERVER,
        )
        return Credentials(self._authority.certificate(), certificate, key)

    def _environment(self, gpu: str | None = None) -> Mapping[str, str]:
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            # Strings hash alike in all processes of a run, so sets of them have one order.
            "PYTHONHASHSEED": str(self._record.spec.seed % 2**32),
            "FLWR_TELEMETRY_ENABLED": "0",
        }
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
            if "CUDA_VISIBLE_DEVICES" not in os.environ:
                # Where nobody has said which: as nvidia-smi numbers them.
                environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        return environment

    # ------------------------------------------------------------- the end

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._stop.is_set():
            self._insist.set()
        else:
            self._log.write("fedkube", f"stopping: {name}; once more ends it at once")
        self.stop(f"stopped by {name}")

    def _conclude(self, code: int) -> RunRecord:
        """Read what the server wrote, and put down what it could not."""
        self._folder.drop_ballast()
        record = self._folder.read_record()
        if not record.state.final:
            record.sum_up(self._folder.read_history())
            stopped = self._stop.is_set() and not self._broken
            event = RunEvent.STOPPED if stopped else RunEvent.BROKE
            record.state = move(record.state, event)
            record.ended_at = datetime.now(UTC)
            record.duration_s = (record.ended_at - record.created_at).total_seconds()
            record.reason, record.message = self._why(code)
            with contextlib.suppress(Environment):
                self._folder.write_record(record)
        if self._log.trouble is not None and record.state is not RunState.SUCCEEDED:
            record.state, record.reason = RunState.FAILED, "Environment"
            record.message = self._log.trouble.message
            with contextlib.suppress(Environment):
                self._folder.write_record(record)
        title = f"{record.run_id}   {record.state}"
        try:
            plots.draw(self._folder.read_history(), title, self._folder.path / "metrics.png")
        except Exception as error:  # noqa: BLE001 - matplotlib raises errors of many kinds
            # A picture that cannot be drawn must not spoil a run that is over.
            log.warning("metrics.png was not drawn: %s", error)
        return record

    def _why(self, code: int) -> tuple[str, str]:
        if self._stop.is_set():
            return "Broken" if self._broken else "Stopped", self._stop_reason
        if code == Exit.ENVIRONMENT:
            return "Environment", "the server could not go on, see log.txt"
        return "ServerEnded", f"the aggregation server {_ended(code)}, see log.txt"


def _ended(code: int) -> str:
    if code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"


@contextlib.asynccontextmanager
async def _background() -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Tasks that are cancelled when what they are for is over."""
    tasks: list[asyncio.Task[Any]] = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
