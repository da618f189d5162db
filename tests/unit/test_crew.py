"""Workers that share one container: which are started again, and which are not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

import pytest
from fedkube_client import crew
from fedkube_client.crew import Crew, Memory
from run_processes import until

from fedkube.core.accelerators import Reading
from fedkube.core.errors import GAVE_WAY
from fedkube.planner import packing

# Writes down how it was started, and does what its name and the number of its life say.
WORKER = """
import json, os, pathlib, signal, sys, time
folder, plan, *arguments = sys.argv[1:]
name = arguments[arguments.index("--name") + 1]
lives = pathlib.Path(folder, name)
life = len(lives.read_text().splitlines()) if lives.exists() else 0
with lives.open("a") as file:
    print(json.dumps(arguments), file=file)
does = json.loads(plan).get(name, [0])
does = does[min(life, len(does) - 1)]
if does == "stays":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pathlib.Path(folder, name + "-stays").touch()
    time.sleep(60)
elif does == "is orphaned":
    os.read(int(arguments[arguments.index("--lifeline-fd") + 1]), 1)
    pathlib.Path(folder, name + "-ended").touch()
elif does == 75 and "--shares-device" not in arguments:
    sys.exit(0)
elif does == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif does < 0:
    time.sleep(-does)
else:
    sys.exit(does)
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Have a crew work by a plan: what each life of each worker does."""
    monkeypatch.setattr(crew, "_LONGEST_PAUSE_S", 0.01)

    class World:
        note = tmp_path / "note"
        folder = tmp_path

        def command(self, plan):
            return [sys.executable, "-c", WORKER, str(tmp_path), json.dumps(plan)]

        def crew(self, asked, plan, look=None):
            return Crew(Memory(self.note, asked), "w", self.command(plan), look)

        def run(self, asked, plan):
            return asyncio.run(asyncio.wait_for(self.crew(asked, plan).run(), 30))

        def lives(self, name):
            path = tmp_path / name
            lines = path.read_text().splitlines() if path.exists() else []
            return [json.loads(line) for line in lines]

    return World()


def test_they_have_names_of_their_own_and_know_that_they_are_several(world):
    assert world.run(3, {}) == 0
    for number in range(3):
        [arguments] = world.lives(f"w.{number}")
        assert arguments[:2] == ["--name", f"w.{number}"]
        assert "--shares-device" in arguments


def test_one_that_is_alone_has_the_device_to_itself(world):
    assert world.run(1, {}) == 0
    assert "--shares-device" not in world.lives("w.0")[0]


def test_whose_memory_runs_out_leaves_and_the_last_stays(world):
    names = ["w.0", "w.1", "w.2"]
    assert world.run(3, {name: [GAVE_WAY] for name in names}) == 0
    lives = [["--shares-device" in each for each in world.lives(name)] for name in names]
    assert sorted(lives) == [[True], [True], [True, False]]


def test_how_many_memory_is_there_for_is_remembered(world):
    plan = {"w.0": [GAVE_WAY], "w.1": [-0.5, 0], "w.2": [-0.5, 0]}
    assert world.run(3, plan) == 0
    assert Memory(world.note, 3).count == 2


def test_a_container_that_was_killed_has_one_less_in_its_next_life(world):
    for wanted in (3, 2, 1, 1):
        assert Memory(world.note, 3).count == wanted


@pytest.mark.parametrize("written", ["", "many", "-3", "0"])
def test_a_note_that_says_nothing(world, written):
    world.note.write_text(written)
    assert 1 <= Memory(world.note, 3).count <= 3


def test_a_note_that_cannot_be_written(tmp_path):
    assert Memory(tmp_path / "nowhere" / "note", 3).count == 3


@pytest.mark.parametrize("end", [1, "is killed"])
def test_others_that_end_are_started_again(world, end):
    assert world.run(2, {"w.0": [end, end, 0], "w.1": [-0.5]}) == 0
    assert len(world.lives("w.0")) == 3
    assert len(world.lives("w.1")) == 1


def test_one_that_ends_again_and_again_ends_all(world):
    """The container's next life may do better; a pod that restarts is seen."""
    began = time.monotonic()
    assert world.run(2, {"w.0": [7], "w.1": ["stays"]}) == 143
    assert len(world.lives("w.0")) == 6
    assert time.monotonic() - began < 20


def test_all_are_told_to_go(world):
    async def scenario():
        work = asyncio.create_task(world.crew(2, {"w.0": ["stays"], "w.1": ["stays"]}).run())
        await until(lambda: len(list(world.folder.glob("*-stays"))) == 2, "two workers")
        os.kill(os.getpid(), signal.SIGTERM)
        return await asyncio.wait_for(work, 20)

    assert asyncio.run(scenario()) == 128 + signal.SIGTERM
    assert [len(world.lives(f"w.{number}")) for number in range(2)] == [1, 1]


def test_one_that_is_about_to_be_started_again_goes_too(world, monkeypatch):
    monkeypatch.setattr(crew, "_LONGEST_PAUSE_S", 60)
    monkeypatch.setattr(crew, "_MAX_RESTARTS", 50)

    async def scenario():
        work = asyncio.create_task(world.crew(1, {"w.0": [1]}).run())
        await until(lambda: len(world.lives("w.0")) == 3, "third life")
        os.kill(os.getpid(), signal.SIGTERM)
        return await asyncio.wait_for(work, 20)

    assert asyncio.run(scenario()) == 128 + signal.SIGTERM


def test_the_run_is_over_for_all_when_it_is_for_one(world, monkeypatch):
    monkeypatch.setattr(crew, "_FAREWELL_S", 0.5)
    assert world.run(2, {"w.0": [-0.3], "w.1": ["stays"]}) == 0


def test_a_crew_that_is_killed_leaves_nobody_behind(world):
    code = (
        "import sys, pathlib; from fedkube_client import crew; "
        "crew.NOTE = pathlib.Path(sys.argv.pop(1)); "
        "real = crew.Crew; "
        "crew.Crew = lambda memory, name, command, look: real(memory, name, command[3:]); "
        "crew.main()"
    )
    plan = {"w.0": ["is orphaned"], "w.1": ["is orphaned"]}
    command = [sys.executable, "-c", code, str(world.note), "--workers", "2", "--name", "w"]

    async def scenario():
        process = await asyncio.create_subprocess_exec(*command, *world.command(plan))
        await until(lambda: world.lives("w.0") and world.lives("w.1"), "two workers")
        process.kill()
        await process.wait()
        await until(lambda: len(list(world.folder.glob("*-ended"))) == 2, "end of both")

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_their_caches_together_are_as_large_as_one(monkeypatch, tmp_path):
    seen = []

    class Noted(Crew):
        def __init__(self, memory, name, command, look):
            seen.append((memory.count, name, command[3:], look))
            super().__init__(memory, name, [sys.executable, "-c", "", *command])

    monkeypatch.setattr(crew, "Crew", Noted)
    monkeypatch.setattr(crew, "NOTE", tmp_path / "note")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(crew.logs, "to_stderr", lambda: None)  # which is the whole process's
    monkeypatch.setattr(sys, "argv", ["crew", "--workers", "4", "--name", "w", "--tls", "/tls"])
    with pytest.raises(SystemExit) as ended:
        crew.main()
    assert ended.value.code == 0
    cache = ["--cache-bytes", str(512 * 1024**2)]
    assert seen == [(4, "w", ["--tls", "/tls", *cache], None)]


# ----------------------------------------------------------------- as many as fit


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(crew, "LOOK_S", 0.05)
    monkeypatch.setattr(packing, "SETTLE_S", 0.2)


def gpu(world, room, each=1000):
    """What a GPU says on which each worker that is there takes so many MiB, of ``room``."""

    def look():
        there = len(list(world.folder.glob("*-stays")))
        return Reading(each * there << 20, room << 20, 0.3)

    return look


def test_there_are_as_many_as_fit(world, quick):
    plan = {f"w.{number}": ["stays"] for number in range(8)}

    async def scenario():
        it = world.crew(8, plan, gpu(world, 3500))
        work = asyncio.create_task(it.run())
        await until(lambda: world.lives("w.2"), "third worker")
        await asyncio.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(work, 20)

    asyncio.run(scenario())
    assert [len(world.lives(f"w.{number}")) for number in range(4)] == [1, 1, 1, 0]
    for number in range(3):
        assert "--shares-device" in world.lives(f"w.{number}")[0], "others may follow"


def test_those_whose_memory_runs_out_leave_and_are_not_replaced(world, quick):
    """What a worker takes is seen too late: the fourth has no room any more."""
    plan = {f"w.{number}": ["stays"] for number in range(8)} | {"w.3": [GAVE_WAY]}
    full = gpu(world, 100_000)

    def noticed():
        return world.note.exists() and world.note.read_text() == "2"

    def look():
        # Those that begin together take their time: what the third takes is seen after the end of
        # the fourth, or it would make room for more before.
        seen = full()
        used = seen.used_bytes if noticed() else min(seen.used_bytes, 2000 << 20)
        return Reading(used, seen.total_bytes, seen.busy)

    async def scenario():
        it = world.crew(8, plan, look)
        work = asyncio.create_task(it.run())
        await until(noticed, "note: one fewer where the container were killed now")
        await asyncio.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(work, 20)

    asyncio.run(scenario())
    assert not world.lives("w.4")
    assert Memory(world.note, 8).count == 3


def test_the_only_one_whose_memory_runs_out_stays_and_is_alone(world, quick):
    plan = {"w.0": [GAVE_WAY]}
    assert asyncio.run(world.crew(8, plan, gpu(world, 100_000)).run()) == 0
    lives = ["--shares-device" in each for each in world.lives("w.0")]
    assert lives == [True, False]
    assert not world.lives("w.1")


def test_where_nobody_can_tell_there_is_one(world, quick):
    plan = {"w.0": [-0.5, 0]}
    assert asyncio.run(world.crew(8, plan, lambda: None).run()) == 0
    assert not world.lives("w.1")
