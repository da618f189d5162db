"""Children of a launcher; their modules are written here, and found in their environment."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from fedkube.local.logs import LogBook
from fedkube.local.processes import start

# Starts a process that has the same output, prints its number, and waits.
_LEAVES = """
import subprocess, sys, time
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(left.pid, flush=True)
time.sleep({seconds})
"""
_DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def run(tmp_path):
    """Start a module with this text, do something with it: the lines that it printed, and that.

    ``act`` is given the child, and an event that says that it has printed something.
    """

    def run(text, act):
        (tmp_path / "child_module.py").write_text(text)
        lines = []
        printed = asyncio.Event()

        def show(_, line):
            lines.append(line)
            printed.set()

        log = LogBook(tmp_path / "log.txt", show)

        async def all_of_it():
            environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
            child = await start("child", "child_module", [], environment, [], log)
            return await asyncio.wait_for(act(child, printed), 60)

        try:
            return lines, asyncio.run(all_of_it())
        finally:
            log.close()

    return run


def goes(pid):
    """Whether a process ends, which takes the system a moment; one that nobody waits for has."""
    for _ in range(1000):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_what_it_printed_is_in_the_log_when_it_has_ended(run, tmp_path):
    async def act(child, printed):
        return await child.wait()

    lines, code = run(
        "import sys; print('first'); print('last', file=sys.stderr); sys.exit(3)", act
    )
    assert sorted(lines) == ["first", "last"]
    assert code == 3


def test_an_end_is_seen_while_what_it_has_started_still_holds_its_output(run):
    async def act(child, printed):
        return await child.wait()

    began = time.monotonic()
    lines, code = run(_LEAVES.format(seconds=0), act)
    assert code == 0
    assert time.monotonic() - began < 30, "it waited for the process that was left"
    assert goes(int(lines[0]))


def test_what_it_has_started_ends_with_it(run):
    async def act(child, printed):
        await printed.wait()
        await child.end(30)
        return child.process.returncode

    lines, code = run(_LEAVES.format(seconds=600), act)
    assert code == -15
    assert goes(int(lines[0]))


def test_who_does_not_end_when_asked_is_made_to(run):
    async def act(child, printed):
        await printed.wait()
        await child.end(0.1)
        return child.process.returncode

    assert run(_DEAF, act)[1] == -9


def test_to_end_what_ends_at_that_moment_is_no_error(run):
    # As near to the end of the moment of grace as can be had, from both sides.
    async def act(child, printed):
        await printed.wait()
        child.process.kill()
        await asyncio.gather(*(child.end(grace) for grace in (0, 0.001, 0.002, 0.005, 0.01)))
        return child.process.returncode

    for _ in range(5):
        # 255: to send a signal, asyncio looks whether the process has ended, and if so, the code is
        # lost to those who wait for it. Of one that is being ended, nobody asks for it.
        assert run(_DEAF, act)[1] in (-9, 255)
