"""How long rounds take with the workers that fit, and what would make them shorter."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedkube.core.accelerators import class_in


def makespan(durations: Sequence[float], workers: int) -> float:
    """Seconds until all calls are over, the longest first, each by the next worker that is free.

    At most 4/3 - 1/(3 x workers) of the shortest possible (LPT; R. L. Graham, "Bounds on
    multiprocessing timing anomalies", 1969, theorem 2).
    """
    if not durations:
        return 0.0
    free_at = [0.0] * max(1, min(workers, len(durations)))
    for duration in sorted(durations, reverse=True):
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has to do.

    ``calls``: clients that are asked in a round. ``client_s``: seconds that one takes; None: not
    known. ``rounds``: 0 if not known. ``model_bytes``: of the arrays that travel; None: not known.
    """

    calls: int
    client_s: float | None = None
    rounds: int = 0
    model_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where workers can be.

    ``workers``: so many, ``by_node``. ``most``: more would idle, or were not asked for.
    ``accelerators``: that each worker has, of the kind ``accelerator``; ``free``: of that kind, on
    nodes that take the run's workers. ``at_once``: clients that each worker serves at a time.
    ``why``: what keeps it from being more.
    """

    workers: int
    by_node: Mapping[str, int]
    most: int
    why: str = ""
    accelerator: str = ""
    accelerators: int = 0
    free: int = 0
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What would run where, and how long it would take.

    ``clients_per_accelerator``: that compute at a time on one; 0 where none are asked for.
    ``waves``: clients that are served one after the other in a round, where one is served at a
    time. ``round_s``: as if clients that share an accelerator did not slow each other. None: not
    known.
    """

    workers: int
    clients_per_accelerator: int
    accelerators_free: int
    waves: int
    round_s: float | None
    run_s: float | None
    bytes_per_round: int | None
    placement: Mapping[str, int]
    why: str
    accelerator_hours: float | None = None


def plan(work: Work, place: Place) -> Plan:
    """The plan of a run."""
    workers = min(place.workers, place.most)
    served = workers * place.at_once
    waves = math.ceil(work.calls / served) if served else 0
    round_s = _round_s(work, served)
    run_s = round_s * work.rounds if round_s is not None and work.rounds else None
    hours = None if run_s is None else run_s * workers * place.accelerators / 3600
    return Plan(
        workers=workers,
        clients_per_accelerator=place.at_once if place.accelerators else 0,
        accelerators_free=place.free,
        waves=waves,
        round_s=round_s,
        run_s=run_s,
        bytes_per_round=_bytes(work, served),
        placement={name: count for name, count in place.by_node.items() if count},
        why=_why(work, place, workers),
        accelerator_hours=hours if place.accelerators else None,
    )


def _round_s(work: Work, served: int) -> float | None:
    """``served``: clients that are served at a time."""
    if work.client_s is None or not served:
        return None
    return makespan([work.client_s] * work.calls, served)


def _bytes(work: Work, served: int) -> int | None:
    """The model goes once to each process that serves; updates come as they are, or as sums.

    A sum has eight bytes an element, as two models of float32 do, and a process makes one where it
    serves several clients.
    """
    if work.model_bytes is None or not served:
        return None
    return work.model_bytes * (served + min(work.calls, 2 * served))


def _why(work: Work, place: Place, workers: int) -> str:
    if not workers:
        return f"no worker fits: {place.why}" if place.why else "no worker fits"
    served = workers * place.at_once
    if served >= work.calls:
        return "all clients of a round are served at once: more workers would idle"
    what = f"no more than {place.most} asked for" if workers >= place.most else place.why
    waves = math.ceil(work.calls / served)
    # So many would save a wave; fewer more would save nothing.
    enough = math.ceil(work.calls / (waves - 1) / place.at_once)
    return f"{what}; {_gain(work, place, workers, enough)}"


def _gain(work: Work, place: Place, workers: int, enough: int) -> str:
    more = enough - workers
    accelerator = ""
    if place.accelerators and workers < place.most:
        more *= place.accelerators
        accelerator = place.accelerator
    things = _named(accelerator, more)
    before, after = (_round_s(work, count * place.at_once) for count in (workers, enough))
    if before is None or after is None:
        waves = math.ceil(work.calls / (workers * place.at_once))
        return f"{more} more {things} would cut the round from {waves} to {waves - 1} waves"
    return f"{more} more {things} would cut the round from {span(before)} to {span(after)}"


def _named(accelerator: str, count: int) -> str:
    """What there would have to be more of."""
    plural = "" if count == 1 else "s"
    if name := class_in(accelerator):
        return f"device{plural} of class {name}"
    return (accelerator.rpartition("/")[2].upper() or "worker") + plural


def span(seconds: float) -> str:
    """A time as people say it: 45 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
