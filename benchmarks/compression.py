"""Compressed updates: bytes and seconds of a round, accuracy, and how fast the rounding is."""

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

import numpy as np

from benchmarks.rounds import ECHO, ROOT
from fedkube.core.quantisation import BLOCK, Compression, pack, restore
from fedkube.store.run_folder import RunFolder

DIGITS = ROOT / "examples" / "digits"


def updates() -> Iterator[dict[str, Any]]:
    """Four clients, each with a worker, and 25 MB in 60 tensors, of which every value changes."""
    config = "megabytes=25.0 tensors=60 num-server-rounds=6 change=true changed-tensors=0"
    plain: dict[str, Any] = {}
    for kind in Compression:
        _, ran = _fedkube(ECHO, kind, "--clients", "4", "--workers", "4", "-c", config)
        up = statistics.median(each["bytes_up"] for each in ran[1:])
        measured: dict[str, Any] = {
            "compression": str(kind),
            "bytes_up_per_round": round(up),
            "round_s": round(statistics.median(each["seconds"] for each in ran[1:]), 4),
        }
        plain = plain or measured
        yield {
            **measured,
            "bytes_over_none": round(up / plain["bytes_up_per_round"], 4),
            "seconds_over_none": round(measured["round_s"] / plain["round_s"], 2),
        }


def accuracy() -> Iterator[dict[str, Any]]:
    """The digits example, 20 rounds of ten clients, from three seeds."""
    for seed in (1, 2, 3):
        plain: dict[str, Any] = {}
        for kind in Compression:
            result, ran = _fedkube(DIGITS, kind, "--clients", "10", "--seed", str(seed))
            measured: dict[str, Any] = {
                "seed": seed,
                "compression": str(kind),
                "test_accuracy": round(result["metrics"]["server.accuracy"], 4),
                "test_loss": round(result["metrics"]["server.loss"], 4),
                "bytes_up": sum(each["bytes_up"] for each in ran),
            }
            plain = plain or measured
            points = 100 * (measured["test_accuracy"] - plain["test_accuracy"])
            ratio = measured["bytes_up"] / plain["bytes_up"]
            yield {
                **measured,
                "points_over_none": round(points, 2),
                "bytes_over_none": round(ratio, 3),
            }


def _fedkube(app: Path, kind: Compression, *options: str) -> tuple[Any, list[dict[str, float]]]:
    """The run's result, and what each round's training took."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        done = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "fedkube"), "run", str(app), *options),
                *("--compression", str(kind), "--out", str(out), "--json", "--no-progress"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        rounds = [each for each in RunFolder(out).read_history() if each.round]
        trained = [each.phases["train"] for each in rounds]
    measured = [{"bytes_up": each.bytes_up, "seconds": each.seconds} for each in trained]
    return json.loads(done.stdout.splitlines()[-1]), measured


def rounding() -> Iterator[dict[str, Any]]:
    """Gigabytes a second, of float32, on one core: an array of 25 MB, packed and restored."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(6_250_000, np.float32)
    values = base + np.float32(0.01) * rng.standard_normal(len(base), np.float32)
    generator = np.random.SFC64(1)

    def noise(count: int) -> Any:
        return np.asarray(generator.random_raw(-(-count // 4))).view(np.uint16)[:count]

    for kind in (Compression.BF16, Compression.INT8):
        packed = pack(values, base, kind)
        assert packed is not None
        data = packed.data.data
        yield {
            "compression": str(kind),
            "stochastic_gb_per_s": _rate(values, lambda kind=kind: pack(values, base, kind, noise)),
            "with_feedback_gb_per_s": _rate(values, lambda kind=kind: pack(values, base, kind)),
            "restore_gb_per_s": _rate(
                values, lambda kind=kind, data=data: _restore(kind, data, base)
            ),
        }


def _restore(kind: Compression, data: memoryview, base: Any) -> None:
    for start in range(0, len(base), 256 * BLOCK):
        part = slice(start, min(start + 256 * BLOCK, len(base)))
        restore(kind, lambda at, n: data[at : at + n], len(base), part, base[part], base.dtype)


def _rate(values: Any, work: Any) -> float:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return float(round(values.nbytes / min(seconds) / 1e9, 2))
