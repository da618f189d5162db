"""What a hosted cluster has as add-ons: DNS, volumes, and care for the nodes without a kubelet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.cluster import dns, fake_nodes, volumes
from tests.cluster.api import Api
from tests.cluster.shell import ApiError


def main() -> None:
    """For ever."""
    for job in (volumes.tend, fake_nodes.tend):
        threading.Thread(target=_again_and_again, args=(job,), daemon=True).start()
    dns.serve()


def _again_and_again(job: Callable[[Api], None]) -> None:
    api = Api()
    while True:
        try:
            job(api)
        except (OSError, ApiError) as error:
            print(f"{job.__module__}:", error, flush=True)
        time.sleep(1)
