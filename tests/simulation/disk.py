"""A disk that forgets what was not synced, that fills up, and whose writes fail."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fedkube.core.errors import Environment, Usage
from fedkube.store.histories import JSON, Histories, rounds_in
from fedkube.store.history import Round
from fedkube.store.journal import MAGIC
from fedkube.store.logs import NotNow
from fedkube.store.run_folder import Arrays, Model, RunRecord, safetensors_file


class Disk:
    """What outlives a server. ``crash``: called where a server may die; may raise.

    ``full_until``: there is no room before that time. ``failures``: so many syncs fail.
    """

    def __init__(
        self, chance: random.Random, now: Callable[[], float], crash: Callable[[str], None]
    ) -> None:
        self.chance = chance
        self.now = now
        self.crash = crash
        self.full_until = 0.0
        self.failures = 0
        self.journal = bytearray()
        self.owner: DiskLog | None = None
        self.files: dict[str, Any] = {}
        self.checkpoints: dict[int, Arrays] = {}


class DiskLog:
    """The journal's bytes, for one life of a server."""

    name = "the disk's journal"

    def __init__(self, disk: Disk) -> None:
        if disk.owner is not None:
            raise Usage("another process has the journal open")
        self._disk = disk
        disk.owner = self

    def read(self) -> memoryview:
        return memoryview(bytes(self._disk.journal))

    def append(self, parts: Sequence[memoryview]) -> None:
        disk = self._disk
        assert disk.owner is self, "a server that is dead has written"
        whole = b"".join(bytes(part) for part in parts)
        disk.crash("journal.begun")
        if disk.now() < disk.full_until:
            raise NotNow("there is no room for the disk's journal")
        if disk.failures:
            disk.failures -= 1
            # Whether it is there is not known: what was written may be on the disk in part.
            disk.journal += whole[: disk.chance.randrange(len(whole) + 1)]
            raise Environment("the disk's journal cannot be written: input/output error")
        try:
            disk.crash("journal.torn")
        except BaseException:
            disk.journal += self._torn(whole)
            raise
        try:
            disk.crash("journal.written")
        except BaseException:
            # Nobody has said that it is on the disk, and it may be.
            disk.journal += whole if disk.chance.random() < 0.5 else b""
            raise
        disk.journal += whole
        disk.crash("journal.synced")

    def _torn(self, whole: bytes) -> bytes:
        """What a crash in the middle of a write leaves: a part, or the length and other bytes."""
        chance = self._disk.chance
        if chance.random() < 0.5:
            return whole[: chance.randrange(len(whole) + 1)]
        torn = bytearray(whole)
        if chance.random() < 0.5 and len(torn) > len(MAGIC):
            # Never in the format's name: a bit more, and it is another version's.
            torn[chance.randrange(len(MAGIC), len(torn))] ^= 1 << chance.randrange(8)
        else:
            start = chance.randrange(len(torn))
            torn[start : start + 4096] = bytes(len(torn[start : start + 4096]))
        return bytes(torn)

    def cut(self, size: int) -> None:
        self._disk.crash("journal.cut")
        del self._disk.journal[size:]

    def replace(self, size: int, parts: Sequence[memoryview]) -> None:
        disk = self._disk
        assert disk.owner is self, "a server that is dead has written"
        disk.crash("journal.condensing")
        if disk.now() < disk.full_until:
            raise NotNow("there is no room for the disk's journal")
        if disk.failures:
            disk.failures -= 1
            if disk.chance.random() < 0.5:
                raise Environment("the disk's journal cannot be replaced: input/output error")
        disk.journal = disk.journal[:size] + b"".join(bytes(part) for part in parts)
        disk.crash("journal.condensed")

    def close(self) -> None:
        if self._disk.owner is self:
            self._disk.owner = None

    def delete(self) -> None:
        self._disk.journal.clear()

    def die(self) -> None:
        """The process is gone, and its lock with it."""
        self.close()


class Folder:
    """A run's other files, each of which is replaced as a whole or not at all."""

    path = None

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def _put(self, name: str, content: Any) -> None:
        self._disk.crash(f"{name}.begun")
        self._disk.files[name] = content
        self._disk.crash(f"{name}.written")

    def write_record(self, record: RunRecord) -> None:
        self._put("run.json", record.model_copy(deep=True))

    def histories(self, run_id: str) -> Histories:
        return Histories(run_id, self._lines, lambda name, parts: self._put(name, b"".join(parts)))

    def _lines(self, name: str) -> Iterable[bytes]:
        return self._disk.files.get(name, b"").splitlines(keepends=True)

    def read_history(self) -> list[Round]:
        return list(rounds_in(self._lines(JSON)))

    def write_model(self, arrays: Arrays) -> Model:
        self._put("model", b"".join(bytes(part) for part in safetensors_file(arrays)))
        return Model(path="model", sha256="")

    def write_checkpoint(self, number: int, arrays: Arrays, keep: int) -> None:
        self._disk.crash("checkpoint.begun")
        self._disk.checkpoints[number] = {key: each.copy() for key, each in arrays.items()}
        self._disk.crash("checkpoint.written")

    def drop_checkpoints(self, since: int) -> None:
        for number in [each for each in self._disk.checkpoints if each >= since]:
            del self._disk.checkpoints[number]

    def drop_ballast(self) -> None:
        pass
