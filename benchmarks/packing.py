"""Clients per second with several workers on one device: torch, a warm process for each worker.

The app is the digits example, which computes on the CPU: the device is the machine's cores.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rounds import ROOT
from fedkube.store.run_folder import RunFolder

CLIENTS = 16
ROUNDS = 4


def packed() -> Iterator[dict[str, Any]]:
    """One worker, two, four and eight, and what each more of them brings."""
    alone = None
    for workers in (1, 2, 4, 8):
        rate = _clients_per_s(workers)
        alone = alone or rate
        yield {
            "device": "cpu",
            "clients_per_device": workers,
            "clients_per_s": round(rate, 2),
            "over_one": round(rate / alone, 2),
        }


def _clients_per_s(workers: int) -> float:
    """Of training, in the median of the rounds after the first, in which the workers start."""
    config = f"num-server-rounds={ROUNDS + 1} fraction-train=1.0"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        subprocess.run(
            [
                *(str(Path(sys.executable).parent / "fedkube"), "run"),
                *(str(ROOT / "examples" / "digits"), "--clients", str(CLIENTS)),
                *("--workers", str(workers), "--seed", "1", "-c", config),
                *("--out", str(out), "--no-progress", "--checkpoint-every", "0"),
            ],
            capture_output=True,
            check=True,
        )
        rounds = [each for each in RunFolder(out).read_history() if each.round > 1]
    trained = [each.phases["train"] for each in rounds]
    return statistics.median(len(each.clients) / each.seconds for each in trained)
