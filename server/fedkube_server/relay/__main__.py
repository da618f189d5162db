"""The relay's process."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from fedkube.core import heap, logs
from fedkube.core.errors import FedKubeError
from fedkube.wire.arguments import credentials_of, options_for_credentials
from fedkube.wire.stream import Refused
from fedkube_server.relay.process import Relay

log = logging.getLogger("fedkube.relay")


def main() -> None:
    """Parse the command line and relay."""
    heap.keep()
    heap.trim_now_and_then()
    parser = argparse.ArgumentParser(prog="fedkube_server.relay", description=__doc__)
    parser.add_argument("--server", required=True, help="HOST:PORT of the server above")
    parser.add_argument("--name", required=True, help="this relay's name, as in its certificate")
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT for workers")
    parser.add_argument(
        "--spool",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="a folder for updates that do not fit into memory",
    )
    options_for_credentials(parser)
    parser.add_argument(
        "--give-up-s", type=float, default=60.0, help="how long it looks for a server that is gone"
    )
    parser.add_argument("--ready-fd", type=int, help="where to write the port, as a line of JSON")
    parser.add_argument("--lifeline-fd", type=int, help="a pipe; its end ends the relay")
    options = parser.parse_args()
    logs.to_stderr()
    # Ctrl-C reaches every process of a terminal; whoever started the relay ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.lifeline_fd is not None:
        _follow_launcher(options.lifeline_fd)
    try:
        asyncio.run(_relay(options))
    except Refused as error:
        sys.exit(f"fedkube: {error}")
    except FedKubeError as error:
        log.error("%s", error.message)
        sys.exit(error.exit_code)


async def _relay(options: argparse.Namespace) -> None:
    def announce(port: int) -> None:
        if options.ready_fd is not None:
            with os.fdopen(options.ready_fd, "w") as pipe:
                pipe.write(json.dumps({"port": port}) + "\n")

    relay = Relay(options.name, credentials_of(options), options.listen, options.spool, announce)
    work = asyncio.ensure_future(relay.run(options.server, options.give_up_s))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        # Only a goodbye from above is a good end; whoever started us may start us again.
        sys.exit(128 + signal.SIGTERM)


def _follow_launcher(descriptor: int) -> None:
    """The launcher holds the other end of a pipe; when it dies, however it dies, this ends."""

    def wait() -> None:
        os.read(descriptor, 1)
        os._exit(0)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    main()
