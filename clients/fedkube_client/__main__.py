"""Starts a worker: ``python -m fedkube_client --server HOST:PORT --name NAME ...``."""

from __future__ import annotations

import os
import signal
from types import FrameType


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    # The first process of a container ignores what it does not handle: told to go while it still
    # imports, it would go on working until it is killed, and what it had done would be lost.
    signal.signal(signal.SIGTERM, _end)
    from fedkube_client.main import main

    main()
