"""Compressed updates: bytes and seconds of a round, accuracy, and how fast the rounding is."""

from __future__ import annotations

import importlib
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
from fedkube_client.compressor import Compressor, Packing

from benchmarks.rounds import ECHO, ROOT
from fedkube.core import ids
from fedkube.core.quantisation import BLOCK, Compression, pack, restore
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store.run_folder import RunFolder
from fedkube.wire import packed

DIGITS = ROOT / "examples" / "digits"


def updates() -> Iterator[dict[str, Any]]:
    """Four clients, each with a worker, and 25 MB in 60 tensors, of which every value changes.

    Three runs of each kind in turn, and the fastest: what else the machine does comes and goes.
    """
    config = "megabytes=25.0 tensors=60 num-server-rounds=6 change=true changed-tensors=0"
    up: dict[Compression, float] = {}
    seconds: dict[Compression, list[float]] = {kind: [] for kind in Compression}
    for _ in range(3):
        for kind in Compression:
            _, ran = _fedkube(ECHO, kind, "--clients", "4", "--workers", "4", "-c", config)
            up[kind] = statistics.median(each["bytes_up"] for each in ran[1:])
            seconds[kind].append(statistics.median(each["seconds"] for each in ran[1:]))
    for kind in Compression:
        yield {
            "compression": str(kind),
            "bytes_up_per_round": round(up[kind]),
            "round_s": round(min(seconds[kind]), 4),
            "bytes_over_none": round(up[kind] / up[Compression.NONE], 4),
            "seconds_over_none": round(min(seconds[kind]) / min(seconds[Compression.NONE]), 2),
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


def feedback() -> Iterator[dict[str, Any]]:
    """The digits example again, of which one worker always has the same client, in this process.

    ``fedkube run`` has no sites, so the rounds are made here, of what an executor and a server do.
    """
    sys.path.insert(0, str(DIGITS))
    task = importlib.import_module("digits_app.task")
    for kind in Compression:
        for bound in (False, True) if kind is not Compression.NONE else (False,):
            _, correct = task.evaluate(_train(task, kind, bound), task.train_and_test_images()[1])
            rounded = "with feedback" if bound else "stochastic"
            yield {
                "compression": str(kind),
                "rounding": "" if kind is Compression.NONE else rounded,
                "test_accuracy": round(correct, 4),
            }


def _train(task: Any, kind: Compression, bound: bool, rounds: int = 20, clients: int = 10) -> Any:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    model = task.initial_model()
    compressors = [Compressor() for _ in range(clients)]
    for number in range(rounds):
        sent = {name: each.numpy().copy() for name, each in model.state_dict().items()}
        content = pb.Content()
        arrays = content.records.add(name="arrays").arrays
        for place, (name, array) in enumerate(sent.items()):
            arrays.items.add(name=name, dtype=array.dtype.name, shape=array.shape, blob=place)
        blobs = [memoryview(array.reshape(-1).view(np.uint8)) for array in sent.values()]
        asked = pb.Task(content=content, compression=packed.NUMBERS[kind], bound=bound)
        sums = {name: np.zeros(array.shape) for name, array in sent.items()}
        total = 0
        for client, compressor in enumerate(compressors):
            seed = ids.call_seed(1, client, number)
            torch.manual_seed(seed)
            images, _ = task.client_images(client, clients, alpha=0.5, seed=0)
            model.load_state_dict({name: torch.from_numpy(each) for name, each in sent.items()})
            task.train(model, images, epochs=2, learning_rate=0.05, batch_size=16)
            call = pb.Call(id=client + number * clients + 1, partition=client, seed=seed)
            packing = compressor.packing(asked, call, blobs)
            weight = len(images.labels)
            total += weight
            for name, each in model.state_dict().items():
                sums[name] += weight * _received(packing, name, each.numpy(), blobs, asked)
            if packing is not None:
                compressor.done(packing)
        mean = {name: torch.from_numpy((each / total).astype("f4")) for name, each in sums.items()}
        model.load_state_dict(mean)
    return model


def _received(
    packing: Packing | None, name: str, values: Any, blobs: list[memoryview], task: pb.Task
) -> Any:
    """An array as the server has it."""
    entry = pb.Array(name=name, dtype=values.dtype.name, shape=values.shape)
    data = None if packing is None else packing("arrays", entry, values)
    if data is None:
        return values
    base = packed.base_of(entry, packed.arrays(task.content))
    whole = packed.restored(entry, data, None if base is None else blobs[base.blob])
    return np.frombuffer(whole, values.dtype).reshape(values.shape)


def rounding() -> Iterator[dict[str, Any]]:
    """Gigabytes a second, of float32, on one core: an array of 25 MB, packed and restored."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(6_250_000, np.float32)
    values = base + np.float32(0.01) * rng.standard_normal(len(base), np.float32)
    generator = np.random.SFC64(1)

    def noise(count: int) -> Any:
        return np.asarray(generator.random_raw(-(-count // 4))).view(np.uint16)[:count]

    for kind in (Compression.BF16, Compression.INT8):
        made = pack(values, base, kind)
        assert made is not None
        data = made.data.data
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
