"""What a pool's clients cost by themselves: Flower's objects and the app's work, and nothing else.

As many processes as a run has workers, each with its share of the clients, one after the other.
For each, Flower's message and context are made and the ClientApp is called: nothing is exchanged,
summed or written, and there is no server.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from multiprocessing.synchronize import Barrier

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from benchmarks.bare import ECHO
from fedkube.app import loading

_PROCESSES = 2
# A process that dies leaves nobody waiting for ever.
_PATIENCE_S = 120.0


def measure(clients: int, nbytes: int, rounds: int, config: dict[str, bool | int]) -> float:
    """Median seconds of a round, the first left out. ``config``: what the app is told."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(_PROCESSES + 1, timeout=_PATIENCE_S)
    words = (barrier, clients // _PROCESSES, nbytes, rounds + 1, config)
    processes = [context.Process(target=_serve, args=words) for _ in range(_PROCESSES)]
    for process in processes:
        process.start()
    seconds = []
    for _ in range(rounds + 1):
        barrier.wait()
        began = time.perf_counter()
        barrier.wait()
        seconds.append(time.perf_counter() - began)
    for process in processes:
        process.join()
    return statistics.median(seconds[1:])


def _serve(
    barrier: Barrier, clients: int, nbytes: int, rounds: int, config: dict[str, bool | int]
) -> None:
    sys.path.insert(0, str(ECHO))
    from echo_app.client_app import app

    if config["sgd"]:
        import torch

        torch.set_num_threads(1)  # as a worker's executor has
    model = Array(np.random.default_rng(0).standard_normal(nbytes // 4, np.float32))
    for _ in range(rounds):
        barrier.wait()
        for client in range(clients):
            loading.identify(1, client + 2, client + 1)
            arrays = ArrayRecord()
            arrays["layer0.weight"] = model
            message = Message(RecordDict({"arrays": arrays}), client + 2, "train")
            message.metadata.__dict__["_message_id"] = str(client)
            context = Context(1, client + 2, {"partition-id": client}, RecordDict(), config)
            app(message, context)
        barrier.wait()
