"""The run folder: everything that a run leaves behind.

=======================  =========================================================================
``run.json``             what was asked for, with what versions, and how it went
``history.json``         by round: metrics, seconds, bytes, clients, failures with reasons
``history.csv``          the same for a spreadsheet
``model.safetensors``    the final global arrays
``checkpoints/``         the arrays after each round that was to be kept
``metrics.png``          the curves
``log.txt``              everything that server and clients printed
``journal``              what was acknowledged, from which an unfinished run is resumed
=======================  =========================================================================
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from fedkube.api.v1alpha1 import NO_JOURNAL, RunSpec
from fedkube.core.errors import Environment, Usage
from fedkube.core.run_states import RunState
from fedkube.store import atomic
from fedkube.store.histories import JSON, Histories, rounds_in
from fedkube.store.history import Round, strict
from fedkube.store.journal import Journal
from fedkube.store.logs import LocalLog, seize
from fedkube.store.object_log import LOCK, ObjectLog

# Takes up space from the start, so that on a full disk there is some for the last record.
_BALLAST = ".ballast"
_BALLAST_BYTES = 64 * 1024

_JOURNAL = "journal"

Arrays = Mapping[str, npt.NDArray[Any]]


class Model(BaseModel):
    """Where the final arrays are, and the digest of that file."""

    path: str
    sha256: str


class RunRecord(BaseModel):
    """``run.json``. Times are UTC; bytes are those of the exchange's frames, TLS not counted."""

    model_config = ConfigDict(protected_namespaces=(), ser_json_inf_nan="constants")

    run_id: str
    state: RunState = Field(
        default=RunState.PENDING, description="where the run is, or how it ended"
    )
    reason: str = Field(default="", description="why it ended, in one word")
    message: str = Field(default="", description="the same in a sentence")
    details: str = Field(default="", description="what belongs to it, such as the app's traceback")
    app: str = Field(description="the app's name")
    spec: RunSpec = Field(description="what was asked for; below")
    versions: dict[str, str] = Field(description="of FedKube, Python, and what matters")
    plan: str = Field(default="", description="why there were so many workers")
    workers: int = 0
    packs: bool = Field(default=False, description="whether there were more as GPUs had room")
    relays: int = Field(default=0, description="between the server and its workers, on one machine")
    banned: list[str] = Field(default=[], description="sites that may not take part any more")
    forked_from: str = Field(default="", description="the run, and the last of its rounds in here")
    created_at: datetime = Field(description="when the command was given")
    started_at: datetime | None = Field(default=None, description="when the server was up")
    ended_at: datetime | None = None
    duration_s: float = Field(
        default=0.0,
        description="seconds, from the server's start to its end; of a run that was resumed, those "
        "of its rounds where a server was killed",
    )
    rounds: int = Field(default=0, description="the last round that anything came of")
    clients: int = Field(
        default=0, description="how many clients' replies have counted at least once"
    )
    metrics: dict[str, float] = Field(
        default={}, description="the newest value of each; null for NaN"
    )
    bytes_up: int = Field(default=0, description="from workers to the server")
    bytes_down: int = Field(default=0, description="from the server to workers")
    server_peak_rss_bytes: int = Field(default=0, description="the most memory that the server had")
    model: Model | None = Field(default=None, description="path and sha256 of the final arrays")

    @field_validator("metrics", mode="before")
    @classmethod
    def _read_null(cls, metrics: dict[str, float | None]) -> dict[str, float]:
        return {key: math.nan if each is None else each for key, each in metrics.items()}

    @field_serializer("metrics", when_used="json")
    def _write_null(self, metrics: dict[str, float]) -> dict[str, float | None]:
        return {key: strict(each) for key, each in metrics.items()}

    def sum_up(self, rounds: Iterable[Round]) -> None:
        """Fill in what follows from the rounds, first to last, which are looked at once."""
        clients: set[int] = set()
        up = down = self.rounds = 0
        self.metrics = {}
        for each in rounds:
            self.metrics |= each.flat_metrics()
            if not each.counted:
                continue
            self.rounds = each.round
            for phase in each.phases.values():
                clients.update(phase.clients)
                up, down = up + phase.bytes_up, down + phase.bytes_down
        self.clients = len(clients)
        self.bytes_up, self.bytes_down = max(self.bytes_up, up), max(self.bytes_down, down)


def _below(place: str, run_id: str) -> str:
    return f"{place.rstrip('/')}/{run_id}"


class RunFolder:
    """Reads and writes the files of one run; one process writes at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new folder; Usage if there is a run in it already, Environment if it cannot be made."""
        if (path / "run.json").exists():
            raise Usage(
                f"{path} holds a run already",
                hint="choose another folder with --out, or leave it out to get a new one",
            )
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Environment(f"cannot make the folder {path}: {error.strerror}") from None
        folder = cls(path)
        folder.restore_ballast()
        return folder

    def restore_ballast(self) -> None:
        """Keep some space for writing down how the run ended."""
        atomic.write(self.path / _BALLAST, bytes(_BALLAST_BYTES))

    def journal(self, record: RunRecord) -> Journal | None:
        """The run's journal, open; None of a run that is to have none.

        Who has it open is the only one that writes in the folder: what others have left half
        written, because they were killed, is deleted. Raises Usage if another process has it open,
        Environment if it cannot be had.
        """
        place, large = record.spec.server.journal, record.spec.server.journal_bytes
        if place == NO_JOURNAL:
            return None
        if place:
            log = ObjectLog.at(_below(place, record.run_id), self.path)
            journal = Journal(log, record.run_id, large_bytes=large)
        else:
            limit = self._journal_limit()
            journal = Journal(LocalLog(self.path / _JOURNAL), record.run_id, limit, large)
        atomic.clear_away(self.path)
        return journal

    def has_journal(self, record: RunRecord) -> bool:
        """Whether there is one: none of a run that has ended well, or whose disk was too small."""
        place = record.spec.server.journal
        if place == NO_JOURNAL:
            return False
        if place:
            return ObjectLog.exists(_below(place, record.run_id))
        return (self.path / _JOURNAL).exists()

    def refuse_if_open(self, record: RunRecord) -> None:
        """Raise Usage where another process of this machine has the run's journal open."""
        os.close(seize(self.path / (LOCK if record.spec.server.journal else _JOURNAL)))

    def _journal_limit(self) -> int:
        """Half of what is free: models, checkpoints and updates need room as well."""
        there = self.path / _JOURNAL
        size = there.stat().st_size if there.exists() else 0
        return size + shutil.disk_usage(self.path).free // 2

    def drop_ballast(self) -> None:
        """Give back the space that was kept for writing down how the run ended."""
        (self.path / _BALLAST).unlink(missing_ok=True)

    def write_record(self, record: RunRecord) -> None:
        """Replace ``run.json``."""
        text = record.model_dump_json(indent=2, by_alias=True)
        atomic.write(self.path / "run.json", (text + "\n").encode())

    def read_record(self) -> RunRecord:
        """``run.json`` as it is now."""
        return RunRecord.model_validate_json((self.path / "run.json").read_bytes(), by_name=True)

    def histories(self, run_id: str) -> Histories:
        """What the rounds did, on the disk."""
        return Histories(run_id, self._lines, self._replace)

    def read_history(self) -> list[Round]:
        """The rounds so far; none before the first has ended."""
        return list(rounds_in(self._lines(JSON)))

    def _lines(self, name: str) -> Iterator[bytes]:
        try:
            with open(self.path / name, "rb") as file:
                yield from file
        except FileNotFoundError:
            return

    def _replace(self, name: str, content: Iterable[bytes]) -> None:
        atomic.write_parts(self.path / name, content)

    def write_model(self, arrays: Arrays) -> Model:
        """Replace the final model."""
        parts = safetensors_file(arrays)
        path = self.path / "model.safetensors"
        atomic.write(path, *parts)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        return Model(path=str(path), sha256=digest.hexdigest())

    def write_checkpoint(self, number: int, arrays: Arrays, keep: int) -> None:
        """The arrays after a round; of all of them, the newest ``keep`` stay (0: all)."""
        atomic.write(self.checkpoint(number), *safetensors_file(arrays))
        if keep:
            for path in self.checkpoints()[:-keep]:
                path.unlink(missing_ok=True)

    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("round-*.safetensors"))

    def drop_checkpoints(self, since: int) -> None:
        """Delete those of the rounds from ``since`` on."""
        for path in self.checkpoints():
            if path >= self.checkpoint(since):
                path.unlink(missing_ok=True)

    def checkpoint(self, number: int) -> Path:
        """Where the checkpoint of a round is, if there is one."""
        return self.path / "checkpoints" / f"round-{number:06d}.safetensors"


# Element types as the format names them, in the order in which it puts tensors.
_SAFETENSORS = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def safetensors_file(arrays: Arrays) -> list[bytes | memoryview]:
    """Arrays as the parts of a safetensors file; the same arrays always give the same bytes.

    The same file as the library's ``save`` makes, which would hold two copies of the model.
    """
    order = list(_SAFETENSORS)
    names = sorted(arrays, key=lambda name: (order.index(arrays[name].dtype.name), name))
    header: dict[str, object] = {}
    parts: list[memoryview] = []
    end = 0
    for name in names:
        array = arrays[name]
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        start, end = end, end + little.nbytes
        header[name] = {
            "dtype": _SAFETENSORS[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
        parts.append(little.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *parts]
