"""The journal of a run: what has been acknowledged, durable before anybody acts upon it.

It is written at the end of a log (``fedkube.store.logs``) only. It begins with ``MAGIC``; then come
entries, each of

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

An array that is in an earlier entry is not written again: the message says where it is. So frozen
layers, of which each round has the same bytes, are written once.

Journals that grow large are condensed: the entries of rounds that have ended give way to one that
says what they have come to. Version 2 has every array in each entry; version 1 has no entry of that
kind, either. They are otherwise the same.
"""

from __future__ import annotations

import logging
import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3
from google.protobuf.message import DecodeError

from fedkube.core.errors import Environment, FedKubeError, Usage
from fedkube.proto.v1 import journal_pb2 as pb
from fedkube.store.logs import Log, NotNow

MAGIC = b"FedKube journal 3\n".ljust(64, b"\0")
_MAGIC_2 = b"FedKube journal 2\n".ljust(64, b"\0")
_MAGIC_1 = b"FedKube journal 1\n".ljust(64, b"\0")
_MAGICS = (MAGIC, _MAGIC_2, _MAGIC_1)

_LENGTHS = struct.Struct("<IQ")
_DIGEST = 16
_ALIGN = 64
_ZEROS = bytes(_ALIGN)
_HEAD_PARTS = 4  # of an entry, before its arrays

# An array of fewer bytes is written anew: to say where it is would hardly take fewer.
_LEAST_BYTES = 1024
# So many arrays are known by name.
_NAMES = 16_384

# How often it is tried whether the log can be written again.
_RETRY_S = 1.0
# How long an entry that is being written may hold up the end of the run.
_CLOSE_S = 2.0

log = logging.getLogger("fedkube.store")


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry as it was read. ``blobs``: its arrays' bytes, read-only. ``end``: where it ends.

    ``starts``: where in the journal each array's bytes begin.
    """

    entry: pb.JournalEntry
    blobs: Sequence[memoryview]
    end: int = 0
    starts: Sequence[int] = ()


class Journal:
    """A run's journal, open for writing: by one process at a time, whatever the host's processes.

    ``limit_bytes``: beyond this it is given up, and the run cannot be resumed any more; None: no
    limit. ``large_bytes``: beyond this it should be condensed; by default, half of the limit.
    ``wait``: waits for the event, at most so many seconds, and says whether it is set. Safe to use
    from several threads.
    """

    def __init__(
        self,
        log: Log,
        run_id: str,
        limit_bytes: int | None = None,
        large_bytes: int | None = None,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        """Take over a log, with what is there, or begin it.

        Raises Usage where it is another run's, Environment where it cannot be read or written.
        """
        self._log = log
        self._limit = limit_bytes
        large = (large_bytes, None if limit_bytes is None else limit_bytes // 2)
        self._large = min((each for each in large if each is not None), default=None)
        self._wait = wait
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._broken: FedKubeError | None = None
        self._open = True
        self._condenses = self._repeats = True
        # Where arrays begin that have a name; the last used last.
        self._starts: OrderedDict[bytes, int] = OrderedDict()
        self.first = 0  # where the entries begin that are the run's own
        self.stored: list[Stored] = []
        try:
            self._end = self._read(run_id)
        except BaseException:
            log.close()
            raise
        # It is worth condensing again when it is twice as large as that left it.
        self._least = 2 * max(
            (each.end for each in self.stored if each.entry.HasField("condensed")), default=0
        )

    def append(
        self,
        entry: pb.JournalEntry,
        blobs: Sequence[memoryview] = (),
        names: Mapping[int, bytes] | None = None,
    ) -> None:
        """Write an entry; it is durable when this returns.

        ``names``: what stands for the bytes of some blobs (by their places), as a digest does: what
        is in the journal by this name is not written again.

        Where there is no room, this waits until there is. Raises where the entry could not be
        written, and for every entry that follows: nobody may act upon them. A journal that has
        reached its limit is given up with a warning: the run goes on without.
        """
        names = names or {}
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if not self._open:
                return
            starts = self._find(blobs, names)
            parts = _frame(entry, blobs, starts)
            size = _size(parts)
            if self._limit is not None and self._end + size > self._limit:
                self._give_up(f"it would outgrow its {self._limit:,} bytes")
                return
            try:
                self._write(parts)
            except FedKubeError as error:
                self._broken = error
                raise
            self._note(blobs, names, starts, parts)
            self._end += size

    @property
    def writes(self) -> bool:
        """Whether it is open: neither closed nor given up."""
        return self._open

    @property
    def end(self) -> int:
        """How many bytes it has: where the next entry begins."""
        return self._end

    @property
    def large(self) -> bool:
        """Whether it should be condensed."""
        return (
            self._open
            and self._condenses
            and self._large is not None
            and self._end > max(self._large, self._least)
        )

    def condense(
        self, keep: int, entries: Sequence[tuple[pb.JournalEntry, Sequence[memoryview]]]
    ) -> bool:
        """Have these entries in place of all that is after the first ``keep`` bytes.

        False where there is no room for that now; raises where it could not be done, and for every
        entry that follows.
        """
        parts: list[memoryview] = []
        for entry, blobs in entries:
            parts += _frame(entry, blobs)
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if not self._open:
                return False
            # Whether it helps or not, it is not tried again after every round.
            self._least = 2 * self._end
            if keep + _size(parts) >= self._end:
                return False
            try:
                self._log.replace(keep, parts)
            except NotNow as trouble:
                log.warning("the journal is not condensed: %s", trouble)
                return False
            except FedKubeError as error:
                self._broken = error
                raise
            self._end = keep + _size(parts)
            self._least = 2 * self._end
            for name in [name for name, start in self._starts.items() if start >= keep]:
                del self._starts[name]
            return True

    def stop(self) -> None:
        """The run is over: an entry that waits for room is not waited for any more."""
        self._stopped.set()

    def close(self, *, delete: bool = False) -> None:
        """No more entries. ``delete``: nobody will want it again."""
        self.stop()
        # One that hangs in a write ends with the process.
        if not self._lock.acquire(timeout=_CLOSE_S):
            return
        try:
            if self._open:
                self._open = False
                self._log.close()
        finally:
            self._lock.release()
        if delete:
            try:
                self._log.delete()
            except FedKubeError as error:
                log.warning("the journal, which nobody needs any more, stays: %s", error)

    # ------------------------------------------------------------- inside

    def _find(self, blobs: Sequence[memoryview], names: Mapping[int, bytes]) -> list[int]:
        """Where each blob is in the journal; 0: it is not."""
        starts = [0] * len(blobs)
        for index, name in names.items():
            if name in self._starts:
                starts[index] = self._starts[name]
                self._starts.move_to_end(name)
        return starts

    def _note(
        self,
        blobs: Sequence[memoryview],
        names: Mapping[int, bytes],
        starts: Sequence[int],
        parts: Sequence[memoryview],
    ) -> None:
        """An entry is written: its blobs are there from now on."""
        if not self._repeats:
            return
        start = self._end + _size(parts[:_HEAD_PARTS])
        for index, blob in enumerate(blobs):
            if starts[index]:
                continue
            if index in names and blob.nbytes >= _LEAST_BYTES:
                self._starts[names[index]] = start
            start += blob.nbytes + len(_padding(blob.nbytes))
        while len(self._starts) > _NAMES:
            self._starts.popitem(last=False)

    def _write(self, parts: Sequence[memoryview]) -> None:
        waits = False
        while True:
            try:
                self._log.append(parts)
                break
            except NotNow as trouble:
                if not waits:
                    log.warning("the run waits: %s", trouble)
                waits = True
                if self._wait(self._stopped, _RETRY_S):
                    raise Environment(
                        f"the run was ended while it waited: {trouble}",
                        hint="resume it when that is mended",
                    ) from trouble
        if waits:
            log.info("the run goes on: %s could be written", self._log.name)

    def _give_up(self, why: str) -> None:
        log.warning("the journal is given up, so this run cannot be resumed from here: %s", why)
        self._open = False
        self._log.delete()
        self._log.close()

    def _read(self, run_id: str) -> int:
        """Take in what is there; where the next entry goes. A torn end is cut off."""
        view = self._log.read()
        if len(view) < len(MAGIC) or (len(view) <= _size(_opening(run_id)) and not _whole(view)):
            return self._begin(run_id)  # a crash has torn its very beginning
        if view[: len(MAGIC)] not in _MAGICS:
            raise Environment(
                f"{self._log.name} is no journal that this version of FedKube reads",
                hint="resume the run with the version that began it",
            )
        # Those who wrote an earlier version would pass over what they do not know.
        self._condenses = view[: len(MAGIC)] != _MAGIC_1
        self._repeats = view[: len(MAGIC)] == MAGIC
        self.stored += _entries(view)
        if not self.stored:
            return self._begin(run_id)
        end, self.first = self.stored[-1].end, self.stored[0].end
        owner = self.stored.pop(0).entry.opening.run
        if owner != run_id:
            raise Usage(f"{self._log.name} is the journal of run {owner!r}, not of {run_id!r}")
        if end < len(view):
            log.warning("the journal's last %d bytes are torn, and cut off", len(view) - end)
            self._log.cut(end)
        return end

    def _begin(self, run_id: str) -> int:
        parts = _opening(run_id)
        self._condenses = self._repeats = True
        self._log.cut(0)
        try:
            self._log.append(parts)
        except NotNow as trouble:
            raise Environment(f"the run cannot begin: {trouble}") from trouble
        self.first = _size(parts)
        return self.first


def _opening(run_id: str) -> list[memoryview]:
    """What a run's journal begins with."""
    return [memoryview(MAGIC), *_frame(pb.JournalEntry(opening=pb.Opening(run=run_id)), ())]


def _size(parts: Sequence[memoryview]) -> int:
    return sum(len(part) for part in parts)


def _whole(view: memoryview) -> bool:
    """Whether a journal's beginning is as this version, or another, has written it."""
    if view[: len(MAGIC)] in _MAGICS:
        return any(_entries(view))
    return re.match(rb"FedKube journal \d+\n", view) is not None


def _frame(
    entry: pb.JournalEntry, blobs: Sequence[memoryview], starts: Sequence[int] = ()
) -> list[memoryview]:
    """The entry with its arrays, but for those that begin elsewhere."""
    entry.blobs[:] = [blob.nbytes for blob in blobs]
    entry.starts[:] = starts if any(starts) else ()
    message = entry.SerializeToString()
    head = [memoryview(message), memoryview(_padding(_LENGTHS.size + _DIGEST + len(message)))]
    arrays: list[memoryview] = []
    for index, blob in enumerate(blobs):
        if not entry.starts or not entry.starts[index]:
            flat = blob.cast("B") if blob.nbytes else memoryview(b"")
            arrays += [flat, memoryview(_padding(len(flat)))]
    lengths = _LENGTHS.pack(len(message), _size(arrays))
    return [
        memoryview(lengths),
        memoryview(_digest(lengths, head[0], arrays)),
        *head,
        *arrays,
    ]


def _digest(lengths: bytes, message: memoryview, arrays: Sequence[memoryview]) -> bytes:
    digest = blake3(lengths)
    digest.update(message)
    for part in arrays:
        digest.update(part)
    return digest.digest()[:_DIGEST]


def _padding(length: int) -> bytes:
    return _ZEROS[: -length % _ALIGN]


def _entries(view: memoryview) -> Iterator[Stored]:
    """The entries that are whole."""
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
        starts = []
        for nbytes, there in zip(entry.blobs, entry.starts or [0] * len(entry.blobs), strict=True):
            starts.append(there or arrays)
            if not there:
                arrays += nbytes + len(_padding(nbytes))
        blobs = [view[at : at + nbytes] for at, nbytes in zip(starts, entry.blobs, strict=True)]
        yield Stored(entry, blobs, end, starts)
        start = end
