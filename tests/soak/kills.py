"""Servers that are killed for real, again and again, at each step of writing their journal.

Each life is a process that is killed by SIGKILL where the product has a failpoint, while the
workers are processes that outlive it. In the end the model, the app's result and the histories
must be those of a run that nothing happened to. Says what does not hold, with exit code 1.

Lives are forked from one process that has loaded all that they need, since loading it takes longer
than what they do. It has no threads and no connections of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "support"))
# For the app, in the workers too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# What a worker's process has by itself, as the launcher of a run sees to it.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

from fedkube_server import main as server  # noqa: E402 - it is among what lives share
from run_processes import Processes  # noqa: E402 - it is among what tests share

from fedkube.store import failpoints  # noqa: E402
from tests.soak import conclude  # noqa: E402

_CLIENTS = 6
# Of two workers for six clients each sends sums of updates; of six, each sends its own one.
_RUNS = (("FedAvg", 2), ("FedAvg", 6), ("FedAdam", 2), ("Krum", 2), ("own loop", 2))
# The step, and at which time that a life comes to it, it dies.
_STEPS = {"begun": 2, "torn": 2, "written": 2, "synced": 2, "condensing": 1, "condensed": 1}
# Rounds in which a journal doubles.
_DOUBLES = 12
# A life that neither dies nor ends.
_HANGS_S = 900.0


@dataclass(frozen=True)
class Kind:
    """A run in which a server can die so often. ``condenses``: whenever its journal has doubled."""

    app: str
    workers: int
    condenses: bool
    deaths: int

    @property
    def rounds(self) -> int:
        """Enough of them."""
        # A life commits two entries at most: training and evaluation, or a round of a loop.
        return 5 + self.deaths * (
            _DOUBLES if self.condenses else 2 if self.app == "own loop" else 1
        )

    @property
    def size(self) -> int:
        """Of the model: it, and not the histories, is most of a journal that is condensed."""
        return 20_000 if self.condenses else 300


class Lives:
    """One run in a folder: its workers, and the lives of its server."""

    def __init__(self, path: Path, kind: Kind) -> None:
        path.mkdir()
        self._log = path / "server.txt"
        self._kind = kind
        self._port = 0
        config = {"what": kind.app, "num-server-rounds": kind.rounds, "size": kind.size}
        kept = {"max_attempts": 1000, "journal_bytes": 1 if kind.condenses else None}
        self._run = Processes(path, _CLIENTS, app="counted", **kept, **config)

    def live(self, deaths: int, step: str = "") -> dict[str, Any]:
        """Have so many lives die there, and one more that ends the run; what came of it."""
        dies = f"journal.{step}:{_STEPS[step]}" if deaths else ""
        with self._run:
            for number in range(deaths + 1):
                pid = self._begin(dies if number < deaths else "")
                if not number:
                    for worker in range(self._kind.workers):
                        address = f"127.0.0.1:{self._port}"
                        self._run.worker(address, f"worker-{worker}", give_up_s=600)
                code = _ended(pid)
                wanted = -signal.SIGKILL if number < deaths else 0
                if code != wanted:
                    raise AssertionError(f"life {number + 1} ended with {code}:\n{self._told()}")
            return self._result()

    def _begin(self, dies: str) -> int:
        ready, announce = os.pipe()
        arguments = self._run.of_server(announce, f"127.0.0.1:{self._port}" if self._port else "")
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            os.close(ready)
            self._be_a_server(arguments, dies)
        os.close(announce)
        with os.fdopen(ready) as pipe:
            if line := pipe.readline():
                self._port = json.loads(line)["port"]
        return pid

    def _be_a_server(self, arguments: list[str], dies: str) -> NoReturn:
        code = 70
        try:
            log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            failpoints.die_at(dies)
            sys.argv = ["fedkube_server", *arguments]
            server.main()
        except SystemExit as ending:
            code = int(ending.code or 0)
        except BaseException:  # noqa: BLE001 - it is told in the log, and this process ends
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _told(self) -> str:
        return self._log.read_text()[-2000:]

    def _result(self) -> dict[str, Any]:
        """The model, the app's result, and the histories but for times and bytes."""
        record = self._run.folder.read_record()
        printed = [line for line in self._log.read_text().splitlines() if "RESULT " in line]
        return {
            "state": str(record.state),
            "model": record.model and record.model.sha256,
            "result": json.loads(printed[-1].partition("RESULT ")[2]),
            "rounds": [
                (
                    each.round,
                    each.server,
                    {
                        name: (phase.asked, sorted(phase.clients), phase.failures, phase.metrics)
                        for name, phase in each.phases.items()
                    },
                )
                for each in self._run.folder.read_history()
            ],
        }


def _ended(pid: int) -> int:
    """How a life ended: its exit code, or minus the signal."""
    deadline = time.monotonic() + _HANGS_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"a life of the server neither died nor ended in {_HANGS_S:.0f} s")


def kill(options: argparse.Namespace, folder: Path) -> list[str]:
    """All of it; what does not hold."""
    wrong = []
    undisturbed: dict[Path, dict[str, Any]] = {}
    for app, workers in _RUNS:
        for step in _STEPS:
            condenses = step.startswith("condens")
            if options.app not in (None, app) or options.step not in (None, step):
                continue
            if condenses and app == "own loop":
                continue  # whose journal stays whole
            path = folder / f"{app}-{workers}-{condenses}"
            kind = Kind(app, workers, condenses, options.deaths)
            if path not in undisturbed:
                undisturbed[path] = Lives(path, kind).live(0)
            began = time.monotonic()
            lives = Lives(path.with_name(f"{path.name}-{step}"), kind)
            try:
                result = lives.live(options.deaths, step)
            except (AssertionError, TimeoutError) as error:
                wrong.append(f"{app}, {workers} workers, {step}: {error}")
                continue
            wrong += [
                f"{app}, {workers} workers, {step}: another {what}: {result[what]}, not {value}"
                for what, value in undisturbed[path].items()
                if result[what] != value
            ]
            seconds = time.monotonic() - began
            print(
                f"{app}, {workers} workers: {options.deaths} deaths at {step}, {seconds:.0f} s",
                flush=True,
            )
    return wrong


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.kills", description=__doc__)
    parser.add_argument("--deaths", type=int, default=100, help="at each step (100)")
    parser.add_argument("--app", choices=sorted({app for app, _ in _RUNS}), help="this one alone")
    parser.add_argument("--step", choices=[*_STEPS], help="this one alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = kill(options, Path(folder))
    conclude(wrong)


if __name__ == "__main__":
    main()
