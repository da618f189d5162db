"""Child processes that end with their launcher, whatever happens to it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedkube.local.logs import LogBook


@dataclass(slots=True)
class Child:
    """A running process and the task that writes down its output."""

    name: str
    process: asyncio.subprocess.Process
    output: asyncio.Task[None]
    _swept: bool = field(default=False, init=False)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    async def wait(self) -> int:
        """Wait for its end and for its last line; its exit code, negative for a signal."""
        code = await self.process.wait()
        # What it started and left behind holds the pipe open, for which it is not waited. Once: its
        # number may be another's soon.
        if not self._swept:
            self._swept = True
            end_session(self.process.pid)
        await asyncio.wait({self.output}, timeout=1.0)
        return code

    async def end(self, grace_s: float) -> None:
        """Ask it to end, and after a moment make it."""
        if self.running:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), grace_s)
            except TimeoutError:
                if self.running:  # it may have ended just now, and then there is nothing to kill
                    self.process.kill()
        await self.wait()


def end_session(session: int) -> None:
    """End what a child has started and left behind: all processes of the session that it led."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(folder.name), signal.SIGKILL)
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile, or is not ours


class Lifeline:
    """A pipe whose one end only the launcher has: when it goes, the children read its end."""

    def __init__(self) -> None:
        self.child_end, self._our_end = os.pipe()

    def close(self) -> None:
        """Let go; children that still run end."""
        os.close(self.child_end)
        os.close(self._our_end)


async def start(
    name: str,
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    log: LogBook,
) -> Child:
    """Run a module of ours in a Python of its own.

    In a session of its own, too: Ctrl-C in the terminal reaches the launcher alone, which ends the
    run in good order.
    """
    # Not a pipe of asyncio's, whose wait() goes on until grandchildren have closed it as well.
    ours, theirs = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the folder we stand in is the user's, not a place to import from
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=dict(environment),
            pass_fds=list(descriptors),
            start_new_session=True,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return Child(name, process, asyncio.create_task(_follow(name, ours, log)))


async def _follow(name: str, pipe: int, log: LogBook) -> None:
    """Write down what comes out of a pipe until nobody has its other end any more."""
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(pipe, "rb", buffering=0)
    )
    try:
        await log.follow(name, stream)
    finally:
        transport.close()
