"""How many workers to start, from what is free: the first planner, for one machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedkube.core.errors import Usage
from fedkube.planner.packing import AUTO, AUTO_MOST


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine offers.

    ``cores``: that this process may use. ``memory_bytes``: installed. ``gpus``: CUDA device ids.
    """

    cores: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker to start.

    ``threads``: that its client may use. ``gpu``: that it is bound to. ``cache_bytes``: that its
    arrays may take while nothing uses them.
    """

    index: int
    threads: int
    gpu: str | None
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The workers, and in words why it is these.

    ``reserve``: those that may be started later, where a GPU turns out to have memory for them.
    """

    workers: tuple[Worker, ...]
    why: str
    reserve: tuple[Worker, ...] = ()


# A worker that has loaded torch and an app of moderate size needs about this much.
WORKER_BYTES = 512 * 1024 * 1024
# All workers' caches together take at most an eighth of the memory, within these bounds.
MIN_CACHE_BYTES = 64 * 1024 * 1024
MAX_CACHE_BYTES = 2 * 1024 * 1024 * 1024


# More processes than that on one GPU only take turns.
MAX_PER_GPU = 64


def plan(
    machine: Machine,
    clients: int,
    workers: int | None,
    threads: int = 1,
    per_gpu: int | Literal["auto"] | None = None,
) -> Plan:
    """Workers for ``clients`` logical clients.

    ``per_gpu``: so many on each GPU, and not one; auto: one, and further ones in reserve.

    Threads per client do not follow the number of workers: floating-point sums depend on how many
    threads share them, and a run must end the same with one worker and with several.
    """
    if clients < 1:
        raise Usage(f"--clients is {clients}, and a run needs at least 1")
    if workers is not None and workers < 1:
        raise Usage(f"--workers is {workers}, and a run needs at least 1")
    if threads < 1:
        raise Usage(f"--threads is {threads}, and a client needs at least 1")
    if per_gpu is not None:
        _check_per_gpu(machine, workers, per_gpu)
    gpus = machine.gpus
    most = AUTO_MOST if per_gpu == AUTO else per_gpu or 1
    count, why = _count(machine, clients, workers, threads, most)
    first = min(count, len(gpus)) if per_gpu == AUTO else count
    if first < count:
        why = (
            f"{_n(first, 'worker')}: one for each GPU, and as many more as there turns out to be "
            f"memory for, {count} at most"
        )
    # Models that are large do not come in sixteens.
    shares = min(count, 4 * first) if per_gpu == AUTO else count
    cache = min(MAX_CACHE_BYTES, max(MIN_CACHE_BYTES, machine.memory_bytes // (8 * shares)))
    made = tuple(
        Worker(i, threads, gpus[i % len(gpus)] if gpus else None, cache) for i in range(count)
    )
    return Plan(made[:first], why, made[first:])


def _check_per_gpu(machine: Machine, workers: int | None, per_gpu: int | Literal["auto"]) -> None:
    if per_gpu != AUTO and not 1 <= per_gpu <= MAX_PER_GPU:
        raise Usage(f"--clients-per-gpu is {per_gpu}, and must be from 1 to {MAX_PER_GPU}")
    if workers is not None:
        raise Usage(
            "--clients-per-gpu and --workers both say how many workers there are",
            hint="give one of them; workers are spread evenly over the GPUs",
        )
    if not machine.gpus:
        raise Usage(
            f"--clients-per-gpu is {per_gpu}, and this machine has no GPU",
            hint="--workers says how many clients are served at a time",
        )


def _count(
    machine: Machine, clients: int, workers: int | None, threads: int, per_gpu: int
) -> tuple[int, str]:
    if workers is not None:
        if workers > clients:
            return clients, f"{_n(clients, 'worker')}: more than there are clients would idle"
        return workers, f"{_n(workers, 'worker')}, as asked"
    by_compute = len(machine.gpus) * per_gpu or max(1, machine.cores // threads)
    by_memory = max(1, machine.memory_bytes // WORKER_BYTES)
    count = min(by_compute, by_memory, clients)
    if count == clients:
        return count, f"{_n(count, 'worker')}: one for each client"
    if count == by_memory < by_compute:
        return count, f"{_n(count, 'worker')}: memory for {WORKER_BYTES >> 20} MiB each"
    what = _n(len(machine.gpus), "GPU") if machine.gpus else _n(machine.cores, "core")
    each = f", {per_gpu} for each" if per_gpu > 1 else ""
    return count, f"{_n(count, 'worker')}: this machine has {what}{each}"


def _n(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
