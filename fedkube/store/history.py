"""What each round did, as ``history.json`` and ``history.csv`` hold it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

Metric = int | float | list[int] | list[float]


@dataclass(slots=True)
class Failure:
    """A client whose reply did not count, and why."""

    client: int
    reason: str


@dataclass(slots=True)
class Phase:
    """One send-and-collect: train, evaluate or query.

    ``clients``: partition ids of those whose replies counted. ``seconds``: from the first message
    to the last reply. Bytes are those of the exchange's frames, TLS not counted.
    """

    message_type: str
    asked: int = 0
    clients: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0

    def mark(self) -> object:
        """Another one for whatever has happened to the phase."""
        counts = self.asked, len(self.clients), len(self.failures), self.bytes_up, self.bytes_down
        return counts, self.seconds, repr(self.metrics)


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

    def mark(self) -> object:
        """Another one for whatever has happened to the round."""
        phases = [(name, each.mark()) for name, each in self.phases.items()]
        return self.seconds, phases, repr(self.server)

    @property
    def counted(self) -> bool:
        """Whether anything came of the round."""
        return bool(self.server) or any(phase.clients for phase in self.phases.values())


def latest_metrics(rounds: Iterable[Round]) -> dict[str, float]:
    """The newest value of every scalar metric."""
    metrics: dict[str, float] = {}
    for each in rounds:
        metrics |= each.flat_metrics()
    return metrics


def to_json(
    run_id: str, rounds: Iterable[Round], lines: dict[int, tuple[object, str]] | None = None
) -> bytes:
    """``history.json``, a line for each round.

    ``lines``: what was made of rounds before, by their numbers; it is used again for those that are
    as they were. A run of a thousand rounds writes its history a thousand times.
    """
    text = ",\n  ".join(_line(each, lines) for each in rounds)
    return f'{{\n "run_id": {json.dumps(run_id)},\n "rounds": [\n  {text}\n ]\n}}\n'.encode()


def _line(entry: Round, lines: dict[int, tuple[object, str]] | None) -> str:
    mark = entry.mark()
    if lines is not None and entry.round in lines and lines[entry.round][0] == mark:
        return lines[entry.round][1]
    text = json.dumps(strict(asdict(entry)), allow_nan=False, default=float)
    if lines is not None:
        lines[entry.round] = mark, text
    return text


def strict(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(content: bytes) -> list[Round]:
    """The rounds of a ``history.json``."""
    return [_round(each) for each in json.loads(content)["rounds"]]


def _round(body: dict[str, Any]) -> Round:
    phases = {name: _phase(each) for name, each in body["phases"].items()}
    return Round(**{**body, "phases": phases, "server": _metrics(body["server"])})


def _phase(body: dict[str, Any]) -> Phase:
    failures = [Failure(**failure) for failure in body["failures"]]
    return Phase(**{**body, "failures": failures, "metrics": _metrics(body["metrics"])})


def _metrics(body: dict[str, Any]) -> dict[str, Metric]:
    return {key: math.nan if value is None else value for key, value in body.items()}


def to_csv(rounds: list[Round]) -> bytes:
    """``history.csv``: a line a round, a column for whatever any round has."""
    rows = [_row(each) for each in rounds]
    columns = ["round", "seconds"]
    columns += sorted({key for row in rows for key in row} - set(columns))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _row(entry: Round) -> dict[str, object]:
    row: dict[str, object] = {"round": entry.round, "seconds": f"{entry.seconds:.6f}"}
    for name, phase in entry.phases.items():
        row |= {
            f"{name}.clients": len(phase.clients),
            f"{name}.failures": len(phase.failures),
            f"{name}.seconds": f"{phase.seconds:.6f}",
            f"{name}.bytes_up": phase.bytes_up,
            f"{name}.bytes_down": phase.bytes_down,
        }
    return row | dict(entry.flat_metrics())
