"""A run's processes without a launcher: tests start, stop and kill them, and put links between."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import exchange_harness as harness

from fedkube.api.v1alpha1 import Cohort, Pool, RunSpec, Server
from fedkube.app import project
from fedkube.core.run_states import RunEvent, move
from fedkube.store.run_folder import RunFolder, RunRecord
from fedkube.wire.control import ControlClient
from fedkube.wire.identity import Role

APPS = Path(__file__).parent.parent / "apps"

# A worker of another release: what it says of itself is all that differs.
_SPEAKS = (
    "from fedkube_client import agent, main; agent.PROTOCOL += {}; "
    "agent.__version__ = '9.9'; main.main()"
)


class Process:
    """One of them. What it prints is in a file of its own."""

    def __init__(self, arguments: list[str], log: Path, descriptors: tuple[int, ...] = ()) -> None:
        self._log = log
        with log.open("ab") as file:
            self._popen = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "FLWR_TELEMETRY_ENABLED": "0"},
            )

    @property
    def printed(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def stopped(self) -> bool:
        """Whether it stands still, by a signal."""
        words = Path(f"/proc/{self._popen.pid}/stat").read_text().rpartition(")")[2].split()
        return words[0] == "T"

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    async def ends(self, within: float = 60) -> int:
        """Its exit code."""
        try:
            return await asyncio.to_thread(self._popen.wait, within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end in {within} s:\n{self.printed}") from None

    async def says(self, words: str, within: float = 60) -> None:
        await until(lambda: words in self.printed, f"{words!r} in {self._log.name}", within)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()


async def until(holds: Callable[[], object], what: str, within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"no {what} in {within} s"
        await asyncio.sleep(0.02)


class Processes:
    """Those of one run of an app, in a folder. Leave it as a context manager."""

    def __init__(
        self,
        path: Path,
        clients: int,
        cohort: Cohort | None = None,
        app: str = "misbehave",
        max_attempts: int = 3,
        journal_bytes: int | None = None,
        sites: Sequence[str] = (),
        **config,
    ) -> None:
        self._app = APPS / app
        app = project.read(self._app)
        spec = RunSpec(
            app=str(app.folder),
            run_config={**app.config, **config},
            pool=Pool(clients=clients, max_attempts=max_attempts),
            sites=[*sites],
            server=Server(journal_bytes=journal_bytes),
            seed=5,
            **({"cohort": cohort} if cohort else {}),
        )
        self._path = path
        self._trusted = harness.authority()
        self._started: list[Process] = []
        self.folder = RunFolder.create(path / "run")
        self.folder.write_record(
            RunRecord(
                run_id=harness.RUN,
                app=app.name,
                spec=spec,
                versions={},
                workers=1,
                created_at=datetime.now(UTC),
            )
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._started:
            each.kill()

    async def server(self, listen: str = "") -> tuple[Process, int]:
        """A server, and its port; 0 if it ended before it had one.

        ``listen``: where one that was killed did, whose place it takes.
        """
        ready, announce = os.pipe()
        arguments = ["-m", "fedkube_server", *self.of_server(announce, listen)]
        process = self._start("server", arguments, (announce,))
        os.close(announce)
        with os.fdopen(ready) as pipe:
            line = await asyncio.to_thread(pipe.readline)
        return process, json.loads(line)["port"] if line else 0

    def of_server(self, announce: int, listen: str = "") -> list[str]:
        """The arguments of a server that is to start now. ``announce``: where it tells its port."""
        if listen:
            record = self.folder.read_record()
            record.state = move(record.state, RunEvent.RESUMED)
            self.folder.write_record(record)
        arguments = ["--folder", str(self.folder.path), "--ready-fd", str(announce)]
        arguments += ["--tls", self._tls(Role.SERVER, "run")]
        return [*arguments, "--listen", listen] if listen else arguments

    def worker(
        self,
        address: str,
        name: str = "worker-0",
        *,
        versions_ahead: int = 0,
        give_up_s: int = 20,
        leave_s: int = 0,
        several: int = 0,
    ) -> Process:
        """A worker; ``several``: so many of them, as in one container."""
        code = ["-m", "fedkube_client"]
        if versions_ahead:
            code = ["-c", _SPEAKS.format(versions_ahead)]
        elif several:
            code = ["-m", "fedkube_client.crew", "--workers", str(several)]
        arguments = [*code, "--server", address, "--name", name]
        arguments += ["--give-up-s", str(give_up_s), "--leave-s", str(leave_s)]
        arguments += ["--tls", self._tls(Role.WORKER, name), "--app", str(self._app)]
        return self._start(name, arguments)

    async def stop(self, port: int) -> None:
        """End the run as a person does."""
        control = self._control(port)
        assert await control.stop("enough", 20)
        await control.close()

    async def ban(self, port: int, *sites: str) -> None:
        """Leave these sites out from now on."""
        control = self._control(port)
        assert await control.ban(sites, 20) == ""
        await control.close()

    def _control(self, port: int) -> ControlClient:
        mine = harness.credentials(self._trusted, Role.OPERATOR, "launcher")
        return ControlClient(f"127.0.0.1:{port}", mine)

    def _start(self, name: str, arguments: list[str], descriptors: tuple[int, ...] = ()) -> Process:
        log = self._path / f"{name}-{len(self._started)}.txt"
        self._started.append(Process(arguments, log, descriptors))
        return self._started[-1]

    def _tls(self, role: Role, name: str) -> str:
        folder = self._path / f"tls-{role}-{name}"
        folder.mkdir(exist_ok=True)
        mine = harness.credentials(self._trusted, role, name)
        for file, content in (
            ("ca.pem", mine.ca),
            ("cert.pem", mine.certificate),
            ("key.pem", mine.key),
        ):
            (folder / file).write_bytes(content)
        return str(folder)
