"""What each round did, as the histories hold it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

Metric = int | float | list[int] | list[float]


@dataclass(slots=True)
class Failure:
    """A client whose reply did not count, and why. ``needed``: whether it was waited for."""

    client: int
    reason: str
    needed: bool = True


@dataclass(slots=True)
class Stale:
    """A client whose update counted so many rounds after the one in which it was asked."""

    client: int
    rounds: int


@dataclass(slots=True)
class Phase:
    """One send-and-collect: train, evaluate or query.

    ``clients``: partition ids of those whose replies counted. ``seconds``: from the first message
    to the last reply. Bytes are those of the exchange's frames, TLS not counted. ``stale``: the
    updates that were asked for in earlier rounds, and counted here besides those of the answers.
    """

    message_type: str
    asked: int = 0
    clients: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    stale: list[Stale] = field(default_factory=list)


@dataclass(slots=True)
class Round:
    """One round. ``server``: what the ServerApp measured itself, such as a central test set.

    Round 0 is what was measured before training.
    """

    round: int
    seconds: float = 0.0
    phases: dict[str, Phase] = field(default_factory=dict)
    server: dict[str, Metric] = field(default_factory=dict)

    def flat_metrics(self) -> dict[str, float]:
        """Scalar metrics by dotted name (``server.accuracy``), those of the server first."""
        parts = [(name, phase.metrics) for name, phase in self.phases.items()]
        return {
            f"{part}.{key}": float(value)
            for part, metrics in [("server", self.server), *reversed(parts)]
            for key, value in metrics.items()
            if not isinstance(value, list)
        }

    def went_as(self, earlier: Round) -> None:
        """Take over how long it took, and what it cost, when it was not only recalled."""
        self.seconds = earlier.seconds
        for name, phase in self.phases.items():
            if (before := earlier.phases.get(name)) is not None:
                phase.seconds = before.seconds
                phase.bytes_up, phase.bytes_down = before.bytes_up, before.bytes_down

    def failed(self) -> list[Failure]:
        """What went wrong: not those that were not needed."""
        phases = self.phases.values()
        return [each for phase in phases for each in phase.failures if each.needed]

    @property
    def counted(self) -> bool:
        """Whether anything came of the round."""
        return bool(self.server) or any(phase.clients for phase in self.phases.values())


def to_json(entry: Round) -> str:
    """A round as one line of JSON."""
    return json.dumps(strict(asdict(entry)), allow_nan=False, default=float)


def strict(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(body: dict[str, Any]) -> Round:
    """The round that JSON says."""
    phases = {name: _phase(each) for name, each in body["phases"].items()}
    return Round(**{**body, "phases": phases, "server": _metrics(body["server"])})


def _phase(body: dict[str, Any]) -> Phase:
    failures = [Failure(**failure) for failure in body["failures"]]
    stale = [Stale(**each) for each in body.get("stale", ())]
    metrics = _metrics(body["metrics"])
    return Phase(**{**body, "failures": failures, "stale": stale, "metrics": metrics})


def _metrics(body: dict[str, Any]) -> dict[str, Metric]:
    return {key: math.nan if value is None else value for key, value in body.items()}


def to_row(entry: Round) -> dict[str, object]:
    """A round as what a table has of it, by column."""
    row: dict[str, object] = {"round": entry.round, "seconds": f"{entry.seconds:.6f}"}
    for name, phase in entry.phases.items():
        row |= {
            f"{name}.clients": len(phase.clients),
            f"{name}.failures": sum(each.needed for each in phase.failures),
            f"{name}.seconds": f"{phase.seconds:.6f}",
            f"{name}.bytes_up": phase.bytes_up,
            f"{name}.bytes_down": phase.bytes_down,
        }
        if phase.stale:
            row[f"{name}.late"] = len(phase.stale)
    return row | dict(entry.flat_metrics())
