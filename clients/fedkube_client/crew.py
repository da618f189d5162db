"""Several workers in one container, which share its accelerator.

``python -m fedkube_client.crew --workers N --name NAME ...``: the rest are options of a worker, and
the workers are ``NAME.0`` to ``NAME.<N-1>``. One whose memory runs out leaves the accelerator to
the others; others that end are started again. With ``--as-fit`` there is one at first, and more
when it is seen that the accelerator has memory for them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from fedkube.core import accelerators, logs
from fedkube.core.accelerators import Reading
from fedkube.core.errors import GAVE_WAY
from fedkube.ending import end_on_sigterm
from fedkube.planner.packing import LOOK_S, Packing
from fedkube_client.segments import CACHE_BYTES

log = logging.getLogger("fedkube.client")

# Who keeps dying within a minute is not started again more often than this in a row.
_MAX_RESTARTS = 5
_STABLE_S = 60.0
_LONGEST_PAUSE_S = 20.0
# Of their cache, where it is not known yet how many there will be.
_SHARES = 4
# When the run is over for one, the others hear of it within this time.
_FAREWELL_S = 10.0
# Of containers of a pod, each with the one before it.
NOTE = Path(tempfile.gettempdir()) / "fedkube-crew"


class Memory:
    """How many workers there is memory for, as far as earlier lives of the container have found.

    A container is killed as a whole where its own memory runs out, and nobody is told why.
    ``at_once``: all of them are started now.
    """

    def __init__(self, path: Path, asked: int, at_once: bool = True) -> None:
        self._path = path
        self.count = asked
        with suppress(OSError, ValueError):
            self.count = min(asked, max(1, int(path.read_text())))
        if at_once:
            self.note(self.count - 1)

    def note(self, count: int) -> None:
        """So many are to be started if this life ends without a word."""
        with suppress(OSError):  # then the next one begins as this one did
            self._path.write_text(str(max(1, count)))


class Crew:
    """The workers. ``command``: of one, but for its name and what it is told of the others.

    ``look``: at the accelerator, to have as many as fit; None: all of them at once.
    """

    def __init__(
        self,
        memory: Memory,
        name: str,
        command: Sequence[str],
        look: Callable[[], Reading | None] | None = None,
    ) -> None:
        self._memory = memory
        self._name = name
        self._command = command
        self._look = look
        self._there = set(range(memory.count)) if look is None else {0}
        self._packing = Packing(memory.count) if look else None
        self._keepers: list[asyncio.Task[int]] = []
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._going = asyncio.Event()
        self._asked = False
        # Its other end is this process's alone: when that goes, the workers read its end.
        self._lifeline, self._held = os.pipe()

    async def run(self) -> int:
        """Keep them at work until the run is over; the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ask)
        # Before anybody is on it.
        empty = await asyncio.to_thread(self._look) if self._look else None
        for number in sorted(self._there):
            self._employ(number)
        filling = asyncio.create_task(self._fill(empty))
        while waiting := [each for each in self._keepers if not each.done()]:
            ended, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for each in ended:
                each.result()
        filling.cancel()
        codes = [each.result() for each in self._keepers]
        self._memory.note(self._packing.most if self._packing else len(self._there))
        if 0 in codes:
            return 0
        return 128 + signal.SIGTERM if self._asked else max(codes)

    def _employ(self, number: int) -> None:
        self._keepers.append(asyncio.create_task(self._keep(number)))

    async def _fill(self, empty: Reading | None) -> None:
        """Have more workers as long as there is memory for them."""
        if self._look is None or self._packing is None:
            return
        if empty is None:
            self._packing = None
            log.warning(
                "nvidia-smi does not say how full the GPU is: one client at a time is on it"
            )
            return
        self._packing.empty_bytes = empty.used_bytes
        loop = asyncio.get_running_loop()
        while not (self._packing.found or self._going.is_set()):
            await asyncio.sleep(LOOK_S)
            reading = await asyncio.to_thread(self._look)
            more = self._packing.look(loop.time(), reading) if reading is not None else 0
            if more:
                numbers = range(len(self._keepers), len(self._keepers) + more)
                self._there |= set(numbers)
                # Where the container is killed for it, the next life has fewer.
                self._memory.note(len(self._there) - 1)
                log.info(
                    "a client takes %.1f GB of the GPU: %d workers are on it from now on",
                    self._packing.each_bytes / 1e9,
                    len(self._there),
                )
                for number in numbers:
                    self._employ(number)

    def _gave_way(self, number: int) -> bool:
        """Memory ran out: whether the worker leaves; the last one stays."""
        stays = len(self._there) == 1
        if not stays:
            self._there.discard(number)
        if self._packing is not None:
            self._packing.left(len(self._there))
        self._memory.note(len(self._there) - 1)
        return not stays

    def _ask(self) -> None:
        self._asked = True
        self._go()

    def _go(self) -> None:
        """No worker is started any more, and those that there are end."""
        self._going.set()
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.terminate()

    async def _keep(self, number: int) -> int:
        """One of them; the exit code of its last process."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            shares = len(self._there) > 1 or (self._packing is not None and not self._packing.found)
            code = await self._live(number, shares)
            if code == 0:
                loop.call_later(_FAREWELL_S, self._go)
            if code == 0 or self._going.is_set():
                return code
            name = f"{self._name}.{number}"
            if code == GAVE_WAY and self._gave_way(number):
                log.warning(
                    "memory ran out: %s has left, and %d of its kind go on", name, len(self._there)
                )
                return code
            if code != GAVE_WAY or not shares:  # else it comes back as the only one
                failures = failures + 1 if loop.time() - began < _STABLE_S else 1
            if failures > _MAX_RESTARTS:
                log.error("%s ended %d times in a row; all are given up", name, failures)
                self._go()
                return code
            log.warning("%s ended with code %d; starting it again", name, code)
            with suppress(TimeoutError):
                pause = min(_LONGEST_PAUSE_S, 0.25 * 2**failures)
                await asyncio.wait_for(self._going.wait(), pause)
                return code

    async def _live(self, number: int, shares: bool) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *("--name", f"{self._name}.{number}", "--lifeline-fd", str(self._lifeline)),
            *(["--shares-device"] if shares else []),
            pass_fds=[self._lifeline],
        )
        self._running[number] = process
        if self._going.is_set():
            process.terminate()
        code = await process.wait()
        del self._running[number]
        # A shell's code for a signal, as a container's is.
        return code if code >= 0 else 128 - code


def main() -> None:
    """Parse the command line and keep the workers."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(prog="fedkube_client.crew", description=__doc__)
    parser.add_argument("--workers", type=int, required=True, help="how many")
    parser.add_argument(
        "--as-fit", action="store_true", help="so many at the most, as they fit on the GPU"
    )
    parser.add_argument("--name", required=True, help="their names begin with it")
    parser.add_argument(
        "--cache-bytes", type=int, default=CACHE_BYTES, help="bound of all their tensor caches"
    )
    options, rest = parser.parse_known_args()
    logs.to_stderr()
    memory = Memory(NOTE, options.workers, at_once=not options.as_fit)
    if memory.count < options.workers:
        log.warning(
            "no more than %d workers, of %d: an earlier life of the container had no memory for "
            "others",
            memory.count,
            options.workers,
        )
    # Models that are large do not come in sixteens.
    shares = min(memory.count, _SHARES) if options.as_fit else memory.count
    cache = ["--cache-bytes", str(options.cache_bytes // shares)]
    command = [sys.executable, "-m", "fedkube_client", *rest, *cache]
    look = accelerators.read if options.as_fit else None
    sys.exit(asyncio.run(Crew(memory, options.name, command, look).run()))


if __name__ == "__main__":
    main()
