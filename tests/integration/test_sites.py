"""Sites over real sockets: whoever has the data of one cannot be given the work of another."""

import asyncio
import contextlib
from contextlib import asynccontextmanager
from pathlib import Path

import exchange_harness as harness
import grpc
import grpc.aio
import pytest
from exchange_harness import Server
from fedkube_client.agent import Agent
from fedkube_client.executor import AppSettings
from fedkube_server.calls import Answer

from fedkube.app.records import decode, to_values
from fedkube.wire.control import ControlClient
from fedkube.wire.identity import Role
from fedkube.wire.stream import Refused

SITES = ("north", "south")
NODES = Path(__file__).parent.parent / "apps" / "nodes"


@asynccontextmanager
async def world():
    trusted = harness.authority()
    mine = harness.credentials(trusted, Role.SERVER)
    server = Server(mine, to_values({"num-server-rounds": 1}), sites=SITES)
    await server.start()
    agents: list[asyncio.Task[None]] = []

    def join(site: str, config: str, name: str = "") -> asyncio.Task[None]:
        settings = AppSettings(NODES, "nodes_app.client_app:app", 1, config)
        certificate = harness.credentials(trusted, Role.WORKER, site)
        agent = Agent(server.address, name or site, certificate, settings, 1 << 30)
        agents.append(asyncio.create_task(agent.run(10)))
        return agents[-1]

    try:
        yield server, trusted, join
    finally:
        server.exchange.close("enough")
        for agent in agents:
            with contextlib.suppress(Refused):
                await asyncio.wait_for(agent, 10)
        await server.stop()


def query(server: Server, client: int) -> None:
    server.submit(client, b"")


async def told(server: Server) -> tuple[int, str]:
    """Which client has answered, and what it reads in its node config."""
    number, outcome = await server.outcome()
    assert isinstance(outcome, Answer), outcome
    records = decode(outcome.outcome.content, outcome.blobs)
    return number, str(records["node"]["site"])


def test_each_site_is_given_its_own_client_however_busy_it_is():
    async def scenario():
        async with world() as (server, _, join):
            join("south", '{"site": "I am south"}')
            for client in (0, 1):
                query(server, client)
            assert await told(server) == (1, "I am south")
            await asyncio.sleep(0.3)
            assert server.silent, "the client of a site that is not there waits for it"
            join("north", '{"site": "I am north"}')
            assert await told(server) == (0, "I am north")

    asyncio.run(scenario())


@pytest.mark.parametrize(("certified", "name"), [("east", ""), ("north", "north.2")])
def test_a_stranger_and_a_double_are_sent_away(certified, name):
    async def scenario():
        async with world() as (_, _, join):
            with pytest.raises(Refused, match="none of the run's sites"):
                await asyncio.wait_for(join(certified, "{}", name), 10)

    asyncio.run(scenario())


def test_a_watcher_is_told_who_is_not_there():
    async def scenario():
        async with world() as (server, trusted, join):
            join("south", "{}")
            control = ControlClient(
                server.address, harness.credentials(trusted, Role.OPERATOR, "run")
            )
            async with asyncio.timeout(10):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for snapshot in control.watch():
                        if list(snapshot.absent) == ["north"]:
                            break
            await control.close()

    asyncio.run(scenario())
