"""Arrays on their way to a relay: each comes once, whatever number of assignments wait for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.limits import MAX_REPLY_BYTES
from fedkube.wire.transfers import Incoming, Progress, check_announced
from fedkube_server.blobs import BlobStore, StoredBlob


@dataclass(slots=True)
class Whole:
    """An assignment whose arrays are there. ``blobs``: in the order in which it lists them."""

    task: pb.Task
    blobs: list[StoredBlob]


@dataclass(slots=True)
class _Coming:
    """An array, and the assignments that wait for it."""

    blob: pb.Blob
    data: memoryview
    waiting: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Waiting:
    task: pb.Task
    found: dict[bytes, StoredBlob] = field(default_factory=dict)
    missing: set[bytes] = field(default_factory=set)


class Fetches:
    """The assignments that wait for arrays."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._incoming = Incoming()
        self._coming: dict[int, _Coming] = {}  # by the blob's number
        self._numbers: dict[bytes, int] = {}  # by its digest
        self._waiting: dict[int, _Waiting] = {}  # by the assignment

    @property
    def assignments(self) -> list[int]:
        """Those that are not whole yet."""
        return list(self._waiting)

    def begin(self, task: pb.Task) -> tuple[Whole | None, list[pb.Want]]:
        """An assignment has come: whole, if nothing is missing, and the arrays to be asked for."""
        check_announced(task.blobs, MAX_REPLY_BYTES)
        waiting = _Waiting(task)
        wants = []
        for blob in {blob.digest: blob for blob in task.blobs}.values():
            stored = self._store.find(blob.digest)
            if stored is None and not blob.nbytes:
                stored = self._store.put(memoryview(b""), blob.digest)
            if stored is not None:
                waiting.found[blob.digest] = stored
                continue
            waiting.missing.add(blob.digest)
            if blob.digest not in self._numbers:
                self._expect(blob)
                if blob.held:
                    wants.append(pb.Want(blob=blob.id))
            self._coming[self._numbers[blob.digest]].waiting.add(task.assignment)
        if not waiting.missing:
            return _whole(waiting), []
        self._waiting[task.assignment] = waiting
        return None, wants

    def _expect(self, blob: pb.Blob) -> None:
        data = np.empty(blob.nbytes, np.uint8).data  # not zeroed: every byte is written

        def write(offset: int, part: memoryview) -> None:
            data[offset : offset + len(part)] = part

        self._incoming.expect(blob, write)
        self._coming[blob.id] = _Coming(blob, data)
        self._numbers[blob.digest] = blob.id

    def write(
        self, number: int, offset: int, data: memoryview
    ) -> tuple[list[Whole], pb.Need | None]:
        """Bytes have come: the assignments that are whole by them, and what must come again."""
        match self._incoming.write(number, offset, data):
            case Progress.CORRUPT:
                [of, *_] = self._coming[number].waiting
                return [], pb.Need(of=of, wants=[pb.Want(blob=number)])
            case Progress.WHOLE:
                return list(self._arrived(number)), None
        return [], None

    def _arrived(self, number: int) -> Iterable[Whole]:
        coming = self._coming.pop(number)
        digest = coming.blob.digest
        del self._numbers[digest]
        stored = self._store.put(coming.data.toreadonly(), digest)
        for assignment in sorted(coming.waiting):
            waiting = self._waiting[assignment]
            waiting.found[digest] = stored
            waiting.missing.discard(digest)
            if not waiting.missing:
                del self._waiting[assignment]
                yield _whole(waiting)

    def cancel(self, calls: set[int], assignments: set[int]) -> None:
        """Drop calls of assignments that are not whole, and what nobody waits for then."""
        for assignment, waiting in list(self._waiting.items()):
            its = waiting.task.calls
            for place in reversed(range(len(its))):
                if assignment in assignments or its[place].id in calls:
                    del its[place]
            if not its:
                del self._waiting[assignment]
                self._abandon(assignment, waiting)

    def _abandon(self, assignment: int, waiting: _Waiting) -> None:
        for digest in waiting.missing:
            number = self._numbers[digest]
            coming = self._coming[number]
            coming.waiting.discard(assignment)
            if not coming.waiting:
                del self._coming[number], self._numbers[digest]
                self._incoming.forget([number])

    def needs(self) -> list[pb.Need]:
        """After a cut: what has not come, from where it was cut."""
        needs: dict[int, pb.Need] = {}
        for want in self._incoming.wants():
            [of, *_] = self._coming[want.blob].waiting
            needs.setdefault(of, pb.Need(of=of)).wants.append(want)
        return list(needs.values())


def _whole(waiting: _Waiting) -> Whole:
    return Whole(waiting.task, [waiting.found[blob.digest] for blob in waiting.task.blobs])
