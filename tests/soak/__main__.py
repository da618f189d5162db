"""One long run whose workers are killed and cut off all the time, and its server now and then.

Their memory must stay what it is, and nothing may be left behind. Tells of each minute, and says at
the end what does not hold, with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "support"))

from faulty_link import Link  # noqa: E402 - it is among what tests share
from run_processes import Process, Processes  # noqa: E402

from tests.soak import conclude  # noqa: E402
from tests.soak.trend import Trend  # noqa: E402

# Seconds between two faults, and how long each lasts, on average.
_BETWEEN_S = 2.0
_LASTS_S = 3.0
# So many faults in all, one is the server's end, in the first half of the time: what grows only
# while a server lives is seen in the second.
_SERVER_SHARE = 0.02
_SAMPLE_S = 5.0
# A worker that was cut off is back after so long.
_BACK_S = 10.0
# What may be gained in an hour, as far as it is certain: an allocator is not exact, and Flower's
# own loop keeps each round's metrics: 430 bytes for a record of one.
_GROWTH_BYTES = 2 * 1024**2
_GROWTH_DESCRIPTORS = 1


@dataclass
class Seen:
    """Of one process: bytes on its heap, and descriptors."""

    heap: list[tuple[float, int]] = field(default_factory=list)
    descriptors: list[tuple[float, int]] = field(default_factory=list)

    def note(self, at: float, pid: int) -> None:
        """Look at the process now."""
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            count = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            return  # it has just been killed
        kib = {
            line.split(":")[0]: int(line.split()[1])
            for line in status.splitlines()
            if line.startswith("Rss")
        }
        self.heap.append((at, 1024 * (kib["RssAnon"] + kib["RssShmem"])))
        self.descriptors.append((at, count))

    @property
    def newest(self) -> str:
        """In words; one that has just been started has not been looked at."""
        if not self.heap:
            return "just started"
        return f"{self.heap[-1][1] / 1e6:.0f} MB and {self.descriptors[-1][1]} descriptors"


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(each) for task in tasks for each in (task / "children").read_text().split()]
    except OSError:
        return []


class Soak:
    """The run, its links and its faults."""

    def __init__(self, run: Processes, agents: int, chance: random.Random) -> None:
        self.run = run
        self.chance = chance
        self.names = [f"worker-{number}" for number in range(agents)]
        self.links: dict[str, Link] = {}
        self.addresses: dict[str, str] = {}
        self.workers: dict[str, Process] = {}
        self.happened: Counter[str] = Counter()
        self.server = Seen()
        self._mortal_until = 0.0
        self.agents = Seen()
        self.executors = Seen()
        self.lives = 1
        self.lasting: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        self.process, self.port = await self.run.server()
        for name in self.names:
            self.links[name] = Link(self.port)
            self.addresses[name] = await self.links[name].open()
            self.workers[name] = self.run.worker(self.addresses[name], name, give_up_s=600)

    async def go_on(self, seconds: float) -> None:
        began = time.monotonic()
        self._mortal_until = began + seconds / 2
        faults = asyncio.create_task(self._faults())
        told = 0
        while (elapsed := time.monotonic() - began) < seconds:
            await asyncio.sleep(_SAMPLE_S)
            if faults.done():
                faults.result()
            self._look(elapsed)
            if elapsed // 60 > told:
                told = int(elapsed // 60)
                print(f"{told:4} min  {self._line()}", flush=True)
        faults.cancel()
        await asyncio.gather(*self.lasting)
        for link in self.links.values():
            link.refuses = False
            link.up.heal()
            link.down.heal()
        await asyncio.sleep(_BACK_S)  # who is away when the run ends hears nothing of it

    def _look(self, at: float) -> None:
        self.server.note(at, self.process.pid)
        name = self.names[0]  # which no fault kills, so that it grows old
        self.agents.note(at, self.workers[name].pid)
        for pid in children(self.workers[name].pid):
            self.executors.note(at, pid)

    def _line(self) -> str:
        rounds = len(self.run.folder.read_history())
        server, agent, executor = (
            each.newest for each in (self.server, self.agents, self.executors)
        )
        journal = (self.run.folder.path / "journal").stat().st_size / 1e6
        return (
            f"{rounds} rounds, journal {journal:.0f} MB, server {server}, agent {agent}, "
            f"executor {executor}, {self.happened.total()} faults"
        )

    # ------------------------------------------------------------- faults

    async def _faults(self) -> None:
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / _BETWEEN_S))
            mortal = time.monotonic() < self._mortal_until
            if self.chance.random() < _SERVER_SHARE and mortal:
                await self._kill_server()
                continue
            what = self.chance.choice((self._kill, self._kill_executor, self._cut, self._hold))
            victims = self.names if what in (self._cut, self._hold) else self.names[1:]
            task = asyncio.create_task(what(self.chance.choice(victims)))
            self.lasting.add(task)
            task.add_done_callback(self.lasting.discard)

    def _lasts(self) -> float:
        return self.chance.expovariate(1 / _LASTS_S)

    async def _kill_server(self) -> None:
        self.happened["server killed"] += 1
        self.process.kill()
        self.server = Seen()  # of its newest life
        self.lives += 1
        self.process, port = await self.run.server(f"127.0.0.1:{self.port}")
        assert port == self.port, self.process.printed

    async def _kill(self, name: str) -> None:
        self.happened["worker killed"] += 1
        self.workers[name].kill()
        await asyncio.sleep(self._lasts())
        self.workers[name] = self.run.worker(self.addresses[name], name, give_up_s=600)

    async def _kill_executor(self, name: str) -> None:
        for pid in children(self.workers[name].pid):
            self.happened["executor killed"] += 1
            os.kill(pid, signal.SIGKILL)

    async def _cut(self, name: str) -> None:
        self.happened["link cut"] += 1
        link = self.links[name]
        link.refuses = True
        link.cut()
        await asyncio.sleep(self._lasts())
        link.refuses = False

    async def _hold(self, name: str) -> None:
        self.happened["link held"] += 1
        way = self.chance.choice((self.links[name].up, self.links[name].down))
        way.hold()
        await asyncio.sleep(self._lasts())
        way.heal()

    # ------------------------------------------------------------- the end

    async def end(self) -> list[str]:
        """Have the run end as a person would; what does not hold."""
        wrong = []
        await self.run.stop(self.port)
        await self.process.ends(60)
        for name in self.names:
            if code := await self.workers[name].ends(60):
                wrong.append(f"{name} ended with {code}: {self.workers[name].printed[-300:]}")
            await self.links[name].close()
        record = self.run.folder.read_record()
        if not record.state.final:
            wrong.append(f"the run is {record.state} and not over")
        rounds = self.run.folder.read_history()
        for each in rounds[:-1]:
            for name, phase in each.phases.items():
                if len(set(phase.clients)) != len(phase.clients):
                    wrong.append(f"round {each.round}: a client counted twice in {name}")
        left = [path.name for path in self.run.folder.path.rglob("*.tmp")]
        if left:
            wrong.append(f"left in the run folder: {left}")
        return wrong

    def seen(self) -> dict[str, Seen]:
        """Of whom what was seen."""
        return {"server": self.server, "agent": self.agents, "executor": self.executors}

    def write_down(self, path: Path) -> None:
        """All samples, a line each."""
        with path.open("w") as file:
            file.write("process,seconds,heap,descriptors\n")
            for name, seen in self.seen().items():
                for (at, heap), (_, count) in zip(seen.heap, seen.descriptors, strict=True):
                    file.write(f"{name},{at:.1f},{heap},{count}\n")

    def judge(self) -> list[str]:
        """What grows, of the server, an agent and its executor."""
        wrong = []
        for name, seen in self.seen().items():
            for what, values, most in (
                ("heap", seen.heap, _GROWTH_BYTES),
                ("descriptors", seen.descriptors, _GROWTH_DESCRIPTORS),
            ):
                trend, usual = Trend.of(values), statistics.median(value for _, value in values)
                print(
                    f"{name}'s {what}: {usual:,.0f}, and in an hour {trend.slope:+,.0f} "
                    f"(with 95 %: {trend.low:+,.0f} to {trend.high:+,.0f})"
                )
                if trend.low > most:
                    wrong.append(f"the {name}'s {what} grows by {trend.low:,.0f} an hour or more")
        return wrong


async def soak(options: argparse.Namespace, folder: Path) -> list[str]:
    """All of it; what does not hold."""
    config = {"num-server-rounds": 10**6, "megabytes": options.megabytes, "change": True}
    shared = set(os.listdir("/dev/shm"))
    kept = {"max_attempts": 1000, "journal_bytes": options.journal_bytes}
    with Processes(folder, options.clients, app="echo", **kept, **config) as run:
        it = Soak(run, options.agents, random.Random(options.seed))
        await it.begin()
        await it.go_on(60 * options.minutes)
        wrong = await it.end()
        wrong += it.judge()
        if options.samples:
            it.write_down(options.samples)
        rounds = len(run.folder.read_history())
    if left := set(os.listdir("/dev/shm")) - shared:
        wrong.append(f"left in shared memory: {sorted(left)}")
    print(f"{rounds} rounds, {it.lives} lives of the server, {dict(sorted(it.happened.items()))}")
    return wrong


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long (60)")
    parser.add_argument("--agents", type=int, default=50, help="workers (50)")
    parser.add_argument("--clients", type=int, default=100, help="logical clients (100)")
    parser.add_argument("--megabytes", type=float, default=0.2, help="of the model (0.2)")
    parser.add_argument(
        "--journal-bytes", type=int, default=20_000_000, help="condense it beyond this (20 MB)"
    )
    parser.add_argument("--samples", type=Path, help="write what was seen into this CSV file")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (0)")
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes is at least 1, for there to be something to compare")
    with tempfile.TemporaryDirectory() as folder:
        wrong = asyncio.run(soak(options, Path(folder)))
    conclude(wrong)


if __name__ == "__main__":
    main()
