"""Whole rounds of ``fedkube run``: real processes, mTLS, digests, checks and commits included.

The app echoes the model, changed, so that all of it travels both ways, and Flower's FedAvg averages
it. The time of a round is what the ServerApp sees; the first, in which workers start, is left out.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import alone, floor
from fedkube.store.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
ECHO = ROOT / "tests" / "apps" / "echo"
# What others take for the same on a machine like this (docs/performance.md says where from).
PEERS = {"NVFlare": 2.5, "Flower deployment": 7.5}


def empty_round() -> Iterator[dict[str, Any]]:
    """Ten clients, a model of 10 kB, an empty ``train``: what a round costs by itself."""
    measured = fedkube(clients=10, megabytes=0.01, tensors=4, rounds=40, changed=-1)
    seconds = measured["round_s"]
    bare = floor.measure(clients=10, nbytes=10_000, rounds=40)
    yield {
        **measured,
        "floor_s": round(bare, 5),
        "over_floor": round(seconds / bare, 2),
        "faster_than": {name: round(peer / seconds) for name, peer in PEERS.items()},
    }


# Megabytes and clients. Sixteen clients of 500 MB, each with its own process, need more memory than
# a machine of 24 GiB has.
TABLE = ((1, 2), (1, 8), (1, 16), (25, 2), (25, 4), (25, 8), (25, 16), (100, 2), (100, 4), (500, 2))


def table() -> Iterator[dict[str, Any]]:
    """N clients, each with a worker, and M megabytes in 60 tensors, over the floor beside each."""
    for megabytes, clients in TABLE:
        rounds = 12 if megabytes <= 1 else 5
        measured = fedkube(clients, megabytes, tensors=60, rounds=rounds, workers=clients)
        bare = floor.measure(clients, int(megabytes * 1e6), rounds)
        ratio = round(measured["round_s"] / bare, 2)
        yield {**measured, "floor_s": round(bare, 4), "over_floor": ratio}


def adapters() -> Iterator[dict[str, Any]]:
    """A model of 100 arrays of which clients change one: what travels after the first round."""
    measured = fedkube(4, 100, tensors=100, rounds=5, changed=1, workers=4)
    yield measured


def pool() -> Iterator[dict[str, Any]]:
    """A thousand logical clients, a model of 10 kB, an echo: simulation."""
    measured = fedkube(1000, 0.01, tensors=1, rounds=20, changed=-1)
    yield _over_alone(measured, {"sgd": False, "change": False})


def pool_sgd() -> Iterator[dict[str, Any]]:
    """The same, and each client makes one step of SGD with ten examples, by PyTorch."""
    measured = fedkube(1000, 0.01, tensors=1, rounds=20, sgd=True)
    yield _over_alone(measured, {"sgd": True, "change": False})


def _over_alone(measured: dict[str, Any], config: dict[str, bool | int]) -> dict[str, Any]:
    """The round over what its clients cost by themselves, on the same machine a moment later."""
    bare = alone.measure(1000, 10_000, 10, config)
    return {
        **measured,
        "clients_per_s": round(1000 / measured["round_s"]),
        "alone_s": round(bare, 4),
        "over_alone": round(measured["round_s"] / bare, 2),
    }


def startup() -> Iterator[dict[str, Any]]:
    """A whole run of one round, from the command to its end."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        fedkube(clients=2, megabytes=0.01, tensors=1, rounds=1, changed=-1)
        seconds.append(time.perf_counter() - began)
    yield {"run_s": round(statistics.median(seconds), 3)}


def fedkube(
    clients: int,
    megabytes: float,
    tensors: int,
    rounds: int,
    *,
    changed: int = 0,
    sgd: bool = False,
    workers: int | None = None,
    relays: int = 0,
) -> dict[str, Any]:
    """``changed``: how many tensors the clients change; 0 for all, -1 for none."""
    config = (
        f"megabytes={float(megabytes)} tensors={tensors} num-server-rounds={rounds + 1} "
        f"change={str(changed >= 0).lower()} changed-tensors={max(0, changed)} "
        f"sgd={str(sgd).lower()}"
    )
    how_many = ["--relays", str(relays)]
    how_many += [] if workers is None else ["--workers", str(workers)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        done = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "fedkube"), "run", str(ECHO)),
                *("--clients", str(clients), *how_many),
                *("-c", config, "--out", str(out)),
                *("--json", "--no-progress", "--checkpoint-every", "1", "--keep-checkpoints", "1"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        result = json.loads(done.stdout.splitlines()[-1])
        log = (out / "log.txt").read_text()
        phases = [each.phases["train"] for each in RunFolder(out).read_history() if each.round]
    told = json.loads(log.rpartition("RESULT ")[2].splitlines()[0])
    seconds = told["seconds-per-round"][1:] or told["seconds-per-round"]
    model = told["model-bytes"]
    return {
        "clients": clients,
        "model_bytes": model,
        "rounds": rounds,
        "round_s": round(statistics.median(seconds), 5),
        "bytes_per_round_over_2NM": round(
            (result["bytes_up"] + result["bytes_down"]) / ((rounds + 1) * 2 * clients * model), 3
        ),
        "later_bytes_over_2NM": round(
            statistics.median(each.bytes_up + each.bytes_down for each in phases[1:] or phases)
            / (2 * clients * model),
            4,
        ),
        "arrived_bytes": round(statistics.median(each.bytes_up for each in phases[1:] or phases)),
        "server_peak_rss_mb": round(result["server_peak_rss_bytes"] / 1e6),
    }
