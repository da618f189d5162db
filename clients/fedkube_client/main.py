"""The worker's process: an agent on an event loop."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path

from fedkube.app import project
from fedkube.core import heap, logs
from fedkube.core.errors import GAVE_WAY, FedKubeError
from fedkube.wire.arguments import credentials_of, options_for_credentials
from fedkube.wire.stream import Refused
from fedkube_client.agent import Agent
from fedkube_client.executor import AppSettings
from fedkube_client.memory import GaveWay
from fedkube_client.segments import CACHE_BYTES

# A worker whose time is up has so long to tell the server.
_LAST_WORDS_S = 3.0


def main() -> None:
    """Parse the command line and serve clients."""
    parser = argparse.ArgumentParser(prog="fedkube_client", description=__doc__)
    parser.add_argument("--server", required=True, help="HOST:PORT of the aggregation server")
    parser.add_argument("--name", required=True, help="this worker's name, as in its certificate")
    options_for_credentials(parser)
    parser.add_argument("--app", type=Path, required=True, help="the Flower app's folder")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a client")
    parser.add_argument(
        "--node-config",
        default="{}",
        type=_node_config,
        help="JSON object of scalars: what the app finds in context.node_config",
    )
    parser.add_argument(
        "--cache-bytes", type=int, default=CACHE_BYTES, help="bound of the tensor cache"
    )
    parser.add_argument(
        "--give-up-s", type=float, default=60.0, help="how long it looks for a server that is gone"
    )
    parser.add_argument(
        "--shares-device",
        action="store_true",
        help="others serve clients on its device: when memory runs out there, it leaves",
    )
    parser.add_argument(
        "--leave-s",
        type=float,
        default=0.0,
        help="how long it may go on, after SIGTERM, with the clients that it is serving",
    )
    parser.add_argument("--lifeline-fd", type=int, help="a pipe; its end ends the worker")
    options = parser.parse_args()
    logs.to_stderr()
    heap.keep()
    # Ctrl-C reaches every process of a terminal; whoever started the worker ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        app = project.read(options.app)
    except FedKubeError as error:
        sys.exit(f"fedkube: {error.message}")
    settings = AppSettings(app.folder, app.clientapp, options.threads, options.node_config)
    agent = Agent(
        options.server,
        options.name,
        credentials_of(options),
        settings,
        options.cache_bytes,
        shares=options.shares_device,
    )
    if options.lifeline_fd is not None:
        _follow_launcher(options.lifeline_fd, agent)
    try:
        asyncio.run(_serve(agent, options.give_up_s, options.leave_s))
    except Refused as error:
        sys.exit(f"fedkube: {error}")
    except GaveWay:
        sys.exit(GAVE_WAY)


def _node_config(text: str) -> str:
    config = json.loads(text)
    if not isinstance(config, dict) or any(
        isinstance(each, list | dict) for each in config.values()
    ):
        raise ValueError("a JSON object of scalars is expected")
    return text


async def _serve(agent: Agent, give_up_s: float, leave_s: float) -> None:
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(agent.run(give_up_s))
    asked = asyncio.Event()

    def end() -> None:
        if asked.is_set() or not leave_s or not agent.retreat(work.cancel):
            work.cancel()
        else:
            # What it still is at then is given back, which is no attempt of the client's.
            loop.call_later(leave_s, agent.abandon)
            loop.call_later(leave_s + _LAST_WORDS_S, work.cancel)
        asked.set()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        await work
    except (asyncio.CancelledError, GaveWay) as error:
        if isinstance(error, GaveWay) and not asked.is_set():
            raise
        # Only a goodbye from the server is a good end; whoever started us may start us again.
        sys.exit(128 + signal.SIGTERM)


def _follow_launcher(descriptor: int, agent: Agent) -> None:
    """The launcher holds the other end of a pipe; when it dies, however it dies, this ends."""

    def wait() -> None:
        os.read(descriptor, 1)
        agent.close()
        os._exit(0)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    main()
