"""A site is banned while it is at work: what has not come from it whole is left out, for good."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import exchange_harness as harness
import grpc
import numpy as np
import pytest
from exchange_harness import open_world
from faulty_link import Link
from fedkube_server import workers
from fedkube_server.calls import Answer
from fedkube_server.landing import Spool
from run_processes import Processes, until
from scripted_worker import Worker, all_frames
from summing import announcement, answer, ask, update

from fedkube.coordinator.progress import Follower
from fedkube.core.errors import Exit
from fedkube.core.run_states import RunState
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.control import ControlClient
from fedkube.wire.identity import Role

SITES = ("north", "south", "east")
NORTH, SOUTH, EAST = 0, 1, 2
# Until it is in force on streams that are open: usually 0.3 s. No machine stands still for so long.
IN_FORCE_S = 15.0


def play(scenario, **of_server) -> None:
    """A scenario of a server of three sites, its channels, and who may ban."""

    async def whole() -> None:
        async with open_world(sites=SITES, **of_server) as (server, channel):
            mine = harness.credentials(channel.trusted, Role.OPERATOR, "launcher")
            control = ControlClient(server.address, mine)
            await asyncio.wait_for(scenario(server, channel, control), 30)
            await control.close()

    asyncio.run(whole())


async def joined(channel, site: str) -> Worker:
    worker = Worker(channel(name=site), site)
    await worker.hello()
    return worker


async def half_an_update(worker: Worker, value: float) -> None:
    """Get a task, and send some of the bytes of its update."""
    task, _ = await worker.task()
    data = update(value)
    await worker.send(reply=announcement(task, data))
    assert (await worker.control()).HasField("need")
    for frame in all_frames(1, data)[:-1]:
        await worker.write(frame)


async def outcomes(server, count: int) -> dict[int, Answer | pb.Failure]:
    return dict([await server.outcome() for _ in range(count)])


def refused(ending: tuple[grpc.StatusCode, str]) -> bool:
    return ending == (
        grpc.StatusCode.PERMISSION_DENIED,
        "site east is banned from the run",
    )


def test_a_site_that_is_banned_in_mid_upload_is_left_out(tmp_path: Path):
    async def scenario(server, channel, control):
        north, east = await joined(channel, "north"), await joined(channel, "east")
        fold = ask(server, NORTH, EAST)
        await half_an_update(east, 100.0)
        began = time.monotonic()
        assert await control.ban(["east"], 5) == ""
        assert refused(await east.how_it_ended())
        assert time.monotonic() - began < IN_FORCE_S
        assert await server.outcome() == (
            EAST,
            pb.Failure(code=pb.Failure.BANNED, reason="site east is banned from the run"),
        )
        task, _ = await north.task()
        assert not (await answer(north, task, update(1.0))).refused
        assert isinstance((await outcomes(server, 1))[NORTH], Answer)
        assert np.unique(fold.mean()["w"]).tolist() == [1.0]
        assert os.listdir(tmp_path) == [], "nothing of it is kept"

    play(scenario, spool=Spool(tmp_path))


def test_what_has_come_whole_counts():
    async def scenario(server, channel, control):
        east = await joined(channel, "east")
        fold = ask(server, EAST)
        task, _ = await east.task()
        assert not (await answer(east, task, update(3.0))).refused
        assert await control.ban(["east"], 5) == ""
        assert refused(await east.how_it_ended())
        assert isinstance((await outcomes(server, 1))[EAST], Answer)
        assert np.unique(fold.mean()["w"]).tolist() == [3.0]

    play(scenario)


def test_it_is_refused_until_the_ban_is_lifted():
    async def scenario(server, channel, control):
        assert await control.ban(["east"], 5) == ""
        again = Worker(channel(name="east"), "east")
        with pytest.raises(grpc.aio.AioRpcError):
            await again.hello()
        assert refused(await again.how_it_ended())
        ask(server, EAST)
        assert (await outcomes(server, 1))[EAST].code == pb.Failure.BANNED, "nobody waits for it"
        assert await control.ban([], 5) == ""
        fold = ask(server, EAST, base=10)
        east = await joined(channel, "east")
        task, _ = await east.task()
        assert not (await answer(east, task, update(2.0))).refused
        assert np.unique(fold.mean()["w"]).tolist() == [2.0]

    play(scenario)


def test_one_that_is_cut_off_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(workers, "RESUME_S", 20.0)

    async def scenario(server, channel, control):
        east = await joined(channel, "east")
        ask(server, EAST)
        await half_an_update(east, 1.0)
        east.call.cancel()
        await asyncio.sleep(0.2)
        assert server.silent, "it may come back"
        assert await control.ban(["east"], 5) == ""
        assert (await outcomes(server, 1))[EAST].code == pb.Failure.BANNED

    play(scenario)


def test_who_may_ban_and_whom():
    async def scenario(server, channel, control):
        worker = ControlClient(server.address, harness.credentials(channel.trusted, Role.WORKER))
        assert "role worker, which may not" in await worker.ban(["north"], 5)
        await worker.close()
        assert await control.ban(["west"], 5) == (
            "'west' cannot be banned: it is none of the run's sites"
        )
        assert server.seats.banned == []

    play(scenario)


def test_a_coordinator_tells_each_life_of_a_server(tmp_path: Path):
    """Whoever restarts it from an older disk: what the object says is in force."""

    async def scenario(server, channel, control):
        mine = harness.credentials(channel.trusted, Role.OPERATOR, "coordinator")
        follower = Follower(server.address, mine, lambda: None)

        def both(sites: list[str]) -> bool:
            """In force, and written down, which is a moment later and on a thread."""
            return server.seats.banned == server.recorder.sites == sites

        follower.ban(["east"])
        await until(lambda: both(["east"]), "ban")
        server.seats.ban([])  # as a life that knows nothing of it
        server.recorder.banned([])
        await until(lambda: both(["east"]), "ban again")
        follower.ban([])
        await until(lambda: both([]), "ban that is lifted")
        follower.stop()

    play(scenario)


def test_a_run_whose_server_dies_after_it_knows_who_is_banned(tmp_path: Path):
    """Real processes: banned in mid-upload, the round goes on; banned in the next life, too."""

    async def scenario(run: Processes):
        server, port = await run.server()
        here, link = f"127.0.0.1:{port}", Link(port)
        east = run.worker(await link.open(), "east")
        link.up.bytes_per_s = 1_000_000
        for name in ("north", "south"):
            run.worker(here, name)
        await until(lambda: link.up.passed > 2_000_000, "half an update")
        began = time.monotonic()
        await run.ban(port, "east")
        assert await east.ends() == 1
        assert "site east is banned from the run" in east.printed
        assert time.monotonic() - began < IN_FORCE_S
        await until(run.folder.read_history, "first round")
        server.kill()
        server, _ = await run.server(here)
        east = run.worker(here, "east")
        assert await east.ends() == 1
        assert "site east is banned from the run" in east.printed
        assert await server.ends(60) == 0
        await link.close()
        record = run.folder.read_record()
        assert (record.state, record.banned) == (RunState.SUCCEEDED, ["east"])
        first, *later = [each.phases["train"] for each in run.folder.read_history() if each.round]
        assert sorted(first.clients) == [NORTH, SOUTH]
        assert [(each.client, each.reason) for each in first.failures] == [
            (EAST, "site east is banned from the run")
        ]
        assert all(sorted(each.clients) == [NORTH, SOUTH] and each.asked == 2 for each in later)

    config = {"num-server-rounds": 60, "megabytes": 4, "change": True}
    with Processes(tmp_path, 3, app="echo", sites=SITES, **config) as run:
        asyncio.run(scenario(run))


def test_too_few_are_left(tmp_path: Path):
    async def scenario(run: Processes):
        server, port = await run.server()
        for name in SITES:
            run.worker(f"127.0.0.1:{port}", name)
        await until(run.folder.read_history, "first round")
        await run.ban(port, "east", "north")
        assert await server.ends() == Exit.RUN_FAILED
        record = run.folder.read_record()
        assert record.reason == "SitesBanned"
        assert record.message == (
            "1 of the run's 3 sites are left, as the others are banned, and a round needs 2"
        )

    config = {"num-server-rounds": 10**6, "change": True}
    with Processes(tmp_path, 3, app="echo", sites=SITES, **config) as run:
        asyncio.run(scenario(run))
