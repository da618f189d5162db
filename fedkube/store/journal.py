"""The journal of a run: what has been acknowledged, on the disk before anybody acts upon it.

One file, written at its end only. It begins with ``MAGIC``; then come entries, each of

======================  ==========================================================================
4 bytes                 length of the message, little-endian
8 bytes                 length of the arrays' bytes
16 bytes                BLAKE3 of both lengths, the message and the arrays' bytes, its beginning
message                 a ``JournalEntry`` (``fedkube/proto/v1/journal.proto``)
up to 63 zeros          so that the arrays begin at a multiple of 64
arrays                  one after the other, each followed by zeros up to a multiple of 64
======================  ==========================================================================

A crash can cut the last entry short; what does not fit its digest is cut off when the journal is
opened again, and so is all that follows it.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from google.protobuf.message import DecodeError

from fedkube.core.errors import Environment, Usage
from fedkube.proto.v1 import journal_pb2 as pb
from fedkube.store import atomic, failpoints

MAGIC = b"FedKube journal 1\n".ljust(64, b"\0")

_LENGTHS = struct.Struct("<IQ")
_DIGEST = 16
_ALIGN = 64
_ZEROS = bytes(_ALIGN)

log = logging.getLogger("fedkube.store")


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry as it was read. ``blobs``: its arrays' bytes, read-only."""

    entry: pb.JournalEntry
    blobs: Sequence[memoryview]


class Journal:
    """A run's journal, open for writing: by one process at a time, whatever the host's processes.

    ``limit_bytes``: beyond this it is given up, and the run cannot be resumed any more; None: no
    limit. Safe to use from several threads.
    """

    def __init__(self, path: Path, run_id: str, limit_bytes: int | None = None) -> None:
        """Open it, or begin it.

        Raises Usage where another process has it open or it is another run's, Environment where it
        cannot be read or written.
        """
        self._path = path
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self.stored: list[Stored] = []
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise atomic.trouble(error, path) from error
        try:
            self._seize()
            self._end = self._read(run_id)
        except BaseException:
            os.close(self._file)
            raise
        self._open = True

    def append(self, entry: pb.JournalEntry, blobs: Sequence[memoryview] = ()) -> None:
        """Write an entry; it is on the disk when this returns.

        A journal that finds no room is given up with a warning: the run goes on without.
        """
        entry.blobs[:] = [blob.nbytes for blob in blobs]
        with self._lock:
            if not self._open:
                return
            parts = list(_frame(entry, blobs))
            size = sum(len(part) for part in parts)
            if self._limit is not None and self._end + size > self._limit:
                self._give_up(f"it would outgrow its {self._limit:,} bytes")
                return
            try:
                failpoints.reach("journal.begun")
                _write(self._file, parts[:2], self._end)
                failpoints.reach("journal.torn")
                _write(self._file, parts[2:], self._end + sum(map(len, parts[:2])))
                failpoints.reach("journal.written")
                os.fdatasync(self._file)
                failpoints.reach("journal.synced")
            except OSError as error:
                self._give_up(atomic.trouble(error, self._path).message)
                return
            self._end += size

    @property
    def writes(self) -> bool:
        """Whether it is open: neither closed nor given up."""
        return self._open

    def close(self, *, delete: bool = False) -> None:
        """No more entries. ``delete``: nobody will want it again."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._file)
        if delete:
            self._path.unlink(missing_ok=True)

    # ------------------------------------------------------------- inside

    def _give_up(self, why: str) -> None:
        log.warning("the journal is given up, so this run cannot be resumed from here: %s", why)
        self._open = False
        self._path.unlink(missing_ok=True)
        os.close(self._file)

    def _seize(self) -> None:
        """Nobody else may write, a process that was only stopped for a while included."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Usage(
                f"another process has {self._path} open: the run is going on",
                hint="wait for its end, or end it",
            ) from None

    def _read(self, run_id: str) -> int:
        """Take in what is there; where the next entry goes. A torn end is cut off."""
        size = os.fstat(self._file).st_size
        if size < len(MAGIC):
            return self._begin(run_id)
        view = memoryview(mmap.mmap(self._file, size, access=mmap.ACCESS_READ))
        if view[: len(MAGIC)] != MAGIC:
            raise Environment(
                f"{self._path} is no journal that this version of FedKube reads",
                hint="resume the run with the version that began it",
            )
        end = len(MAGIC)
        for stored, end in _entries(view):  # noqa: B007 - the last end is used
            self.stored.append(stored)
        if not self.stored:
            return self._begin(run_id)
        owner = self.stored.pop(0).entry.opening.run
        if owner != run_id:
            raise Usage(f"{self._path} is the journal of run {owner!r}, not of {run_id!r}")
        if end < size:
            log.warning("the journal's last %d bytes are torn, and cut off", size - end)
            # The mapping is of what stays: only pages behind it go.
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        return end

    def _begin(self, run_id: str) -> int:
        opening = pb.JournalEntry(opening=pb.Opening(run=run_id))
        parts = [memoryview(MAGIC), *_frame(opening, ())]
        try:
            os.ftruncate(self._file, 0)
            _write(self._file, parts, 0)
            os.fsync(self._file)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise atomic.trouble(error, self._path) from error
        return sum(len(part) for part in parts)


def _frame(entry: pb.JournalEntry, blobs: Sequence[memoryview]) -> Iterator[memoryview]:
    message = entry.SerializeToString()
    parts = [memoryview(message), memoryview(_padding(_LENGTHS.size + _DIGEST + len(message)))]
    for blob in blobs:
        flat = blob.cast("B") if blob.nbytes else memoryview(b"")
        parts += [flat, memoryview(_padding(len(flat)))]
    lengths = _LENGTHS.pack(len(message), sum(len(part) for part in parts[2:]))
    yield memoryview(lengths)
    yield memoryview(_digest(lengths, parts[0], parts[2:]))
    yield from parts


def _digest(lengths: bytes, message: memoryview, arrays: Sequence[memoryview]) -> bytes:
    digest = blake3(lengths)
    digest.update(message)
    for part in arrays:
        digest.update(part)
    return digest.digest()[:_DIGEST]


def _padding(length: int) -> bytes:
    return _ZEROS[: -length % _ALIGN]


def _entries(view: memoryview) -> Iterator[tuple[Stored, int]]:
    """The entries that are whole, and where each ends."""
    start = len(MAGIC)
    while start + _LENGTHS.size + _DIGEST <= len(view):
        lengths = bytes(view[start : start + _LENGTHS.size])
        message_bytes, array_bytes = _LENGTHS.unpack(lengths)
        head = start + _LENGTHS.size + _DIGEST
        arrays = head + message_bytes + len(_padding(_LENGTHS.size + _DIGEST + message_bytes))
        end = arrays + array_bytes
        if end > len(view):
            return
        message = view[head : head + message_bytes]
        if _digest(lengths, message, [view[arrays:end]]) != view[head - _DIGEST : head]:
            return
        entry = pb.JournalEntry()
        try:
            entry.ParseFromString(bytes(message))
        except DecodeError:
            return
        blobs = []
        for nbytes in entry.blobs:
            blobs.append(view[arrays : arrays + nbytes])
            arrays += nbytes + len(_padding(nbytes))
        yield Stored(entry, blobs), end
        start = end


def _write(file: int, parts: Sequence[memoryview], offset: int) -> None:
    for part in parts:
        while part:
            count = os.pwrite(file, part, offset)
            part, offset = part[count:], offset + count
