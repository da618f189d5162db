"""What tests of whole runs share: ``fedkube run`` as a person starts it, and what it left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from on_cluster import NO_CLUSTER
from s3_server import S3Server

from fedkube.store.history import Round
from fedkube.store.run_folder import RunFolder, RunRecord

ROOT = Path(__file__).parent.parent
APPS = ROOT / "tests" / "apps"
EXAMPLES = ROOT / "examples"
FEDKUBE = str(Path(sys.executable).parent / "fedkube")

settings.register_profile(
    "fedkube",
    deadline=None,  # a slow machine is no defect
    # Few enough for every commit, more by hand.
    max_examples=int(os.environ.get("FEDKUBE_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fedkube")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # First, since nothing takes longer, and most of it is waiting, which the others make use of.
    items.sort(key=lambda item: "on_cluster" not in item.path.parts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Here, since of several processes the one that reports knows no conftest further below.
    skipped = terminalreporter.stats.get("skipped", [])
    told = [each.longrepr[2] for each in skipped if isinstance(each.longrepr, tuple)]
    reasons = {text.partition(NO_CLUSTER)[2] for text in told if NO_CLUSTER in text}
    for reason in reasons:
        terminalreporter.section("NO CLUSTER: its tests did not run", sep="!", red=True, bold=True)
        terminalreporter.line(f"This machine cannot have one: {reason}.", red=True)
        terminalreporter.line("FEDKUBE_E2E=1 KUBECONFIG=... runs them on another.", red=True)


@dataclass
class Ran:
    """A ``fedkube run`` that has ended."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def text(self) -> str:
        return self.stdout + self.stderr

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.stdout.strip().splitlines()[-1])

    @property
    def record(self) -> RunRecord:
        return RunFolder(self.folder).read_record()

    @property
    def rounds(self) -> list[Round]:
        return RunFolder(self.folder).read_history()

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    @property
    def result(self) -> dict[str, Any]:
        """What the app printed after RESULT."""
        lines = [line for line in self.log.splitlines() if "RESULT " in line]
        return json.loads(lines[-1].partition("RESULT ")[2])

    def failures(self, phase: str = "train") -> list[tuple[int, int, str]]:
        """Round, client and reason of each failure."""
        return [
            (each.round, failure.client, failure.reason)
            for each in self.rounds
            if phase in each.phases
            for failure in each.phases[phase].failures
        ]


class Running:
    """A ``fedkube run`` that is going on."""

    def __init__(self, arguments: list[str], folder: Path, cwd: Path) -> None:
        self.folder = folder
        if not {"--workers", "--relays", "--clients-per-gpu"} & {*arguments}:
            # A worker more is two processes more, which most tests would make no use of.
            arguments = [*arguments, "--workers", "1"]
        self.process = subprocess.Popen(
            [FEDKUBE, "run", *arguments, "--out", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )

    def wait(self, timeout: float = 90) -> Ran:
        try:
            stdout, stderr = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)
            stdout, stderr = self.process.communicate(timeout=20)
            raise AssertionError(f"did not end in {timeout} s:\n{stdout}\n{stderr}") from None
        return Ran(self.process.returncode, stdout, stderr, self.folder)

    def await_line(self, part: str, timeout: float = 60, count: int = 1) -> None:
        """Wait until the run's log has so many lines with this in them."""
        self.await_that(lambda: self._log().count(part) >= count, f"line with {part!r}", timeout)

    def await_that(self, holds: Callable[[], bool], what: str, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not holds():
            assert self.process.poll() is None, f"ended before {what}: {self.wait().text}"
            assert time.monotonic() < deadline, f"no {what} in {timeout} s: {self._log()}"
            time.sleep(0.02)

    def _log(self) -> str:
        path = self.folder / "log.txt"
        # It may be in the middle of a letter.
        return path.read_text(errors="replace") if path.exists() else ""

    def family(self) -> dict[int, str]:
        """The run's processes by id: what each was started with."""
        return family_of(self.process.pid)

    def pids(self, part: str) -> list[int]:
        """The run's processes whose command line has this in it."""
        return [pid for pid, command in self.family().items() if part in command]


def family_of(pid: int) -> dict[int, str]:
    """A process and all that descend from it, as /proc has them."""
    found: dict[int, str] = {}
    queue = [pid]
    while queue:
        current = queue.pop()
        try:
            command = Path(f"/proc/{current}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            children = [
                int(child)
                for thread in Path(f"/proc/{current}/task").iterdir()
                for child in (thread / "children").read_text().split()
            ]
        except OSError:
            continue
        found[current] = command
        queue += children
    return found


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that have not ended (a zombie has)."""
    running = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.append(pid)
    return running


def gone(pids: list[int], within: float) -> bool:
    """Whether all of the processes end within so many seconds."""
    deadline = time.monotonic() + within
    while alive(pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start a run; whatever of it still runs at the end of the test is ended."""
    started: list[Running] = []

    def start(app: Path | str, *options: str, out: str = "run") -> Running:
        running = Running([str(app), *options], tmp_path / out, tmp_path)
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            family = running.family()
            running.process.kill()
            for pid in alive(list(family)):
                with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(pid, signal.SIGKILL)
            running.process.communicate()


@pytest.fixture
def run(begin: Callable[..., Running]) -> Callable[..., Ran]:
    """A whole run, from start to end."""

    def whole(app: Path | str, *options: str, out: str = "run", timeout: float = 90) -> Ran:
        return begin(app, *options, out=out).wait(timeout)

    return whole


@pytest.fixture
def fedkube(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Any other command."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [FEDKUBE, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
            env={**os.environ, **environment},
        )

    return call


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An object store that speaks S3, as processes that are started find it."""
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


@pytest.fixture
def apps() -> Path:
    return APPS


@pytest.fixture
def examples() -> Path:
    return EXAMPLES


@pytest.fixture
def ends() -> Callable[[list[int], float], bool]:
    return gone
