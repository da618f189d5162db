"""Shared memory between an agent and its executor: anonymous files that leave nothing behind.

A segment is a file without a name. Its descriptor passes over the socket between the two processes,
and the kernel frees it when the last of them is gone, however it went.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from fedkube.proto.v1 import executor_pb2 as xpb

# Of a worker's cache, where nobody says more or less.
CACHE_BYTES = 2 * 1024**3


class Segment:
    """Bytes that two processes see. ``view`` covers exactly ``nbytes``."""

    def __init__(self, descriptor: int, nbytes: int) -> None:
        self.descriptor = descriptor
        self.nbytes = nbytes
        self._map = mmap.mmap(descriptor, max(nbytes, 1))
        self.view = memoryview(self._map)[:nbytes]

    @classmethod
    def create(cls, nbytes: int) -> Segment:
        """A new one, all zeros; it takes memory as it is written."""
        descriptor = _anonymous_file()
        os.ftruncate(descriptor, max(nbytes, 1))
        return cls(descriptor, nbytes)

    def sink(self, start: int) -> Callable[[int, memoryview], None]:
        """Writes bytes from ``start`` on. To new memory that is faster than through the mapping."""

        def write(offset: int, data: memoryview) -> None:
            at = start + offset
            while data:
                count = os.pwrite(self.descriptor, data, at)
                data, at = data[count:], at + count

        return write

    def close_descriptor(self) -> None:
        """The mapping is enough; a process may have only so many descriptors."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def give_descriptor(self) -> int:
        """The descriptor, which is the caller's from now on."""
        descriptor, self.descriptor = self.descriptor, -1
        return descriptor

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            self.close_descriptor()

    def unmap(self) -> bool:
        """Have it no longer in this process's memory; False if arrays still look into it."""
        self.view.release()
        try:
            self._map.close()
        except BufferError:
            return False  # freed with the last array that is a view of it
        return True

    def close(self) -> bool:
        """Give up this process's hold; False if arrays keep the mapping alive for a while."""
        self.close_descriptor()
        return self.unmap()


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fedkube", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Offsets for blobs of these sizes in one segment, aligned for any element, and its size."""
    offsets = []
    end = 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // 64) * 64
    return offsets, end


# A segment that so many tasks in a row had no use for holds a model of the past, and so does one
# without a use since so many came that are about as large.
_IDLE_TASKS = 3
_NEWER = 2

# So many are kept to be written to again: memory that has been written to before is faster.
_SPARE = 2
# A segment may be so much larger than what is written to it.
_SMALL_BYTES = 1024 * 1024


def fits(segment: Segment, nbytes: int) -> bool:
    """Whether a segment has room for so much, and is not far too large."""
    return nbytes <= segment.nbytes <= 2 * nbytes + _SMALL_BYTES


class SegmentCache:
    """Blobs by digest, in segments, until they are not used any more.

    ``limit``: bytes that may be held. Beyond it, the least recently used segments go first. What a
    running task uses is never dropped, so one task's arrays may go beyond the limit.

    A segment that was dropped is written to again when nobody can look into it any more: not here,
    and not in the executor, which has to say so.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        self._places: dict[bytes, xpb.Place] = {}
        self._digests: dict[int, list[bytes]] = {}
        self._next = 1
        self._tasks = 0
        self._used: dict[int, tuple[int, int]] = {}  # segment to the last task, and what came next
        self._leaving: dict[int, Segment] = {}  # dropped, and the executor may look into them
        self._spare: list[Segment] = []

    def make(self, nbytes: int) -> Segment:
        """A segment with at least so many bytes, whatever they are now."""
        chosen = None
        for segment in self._spare:
            if chosen is None and fits(segment, nbytes):
                chosen = segment
            else:
                segment.close_descriptor()
        self._spare.clear()
        if chosen is None:
            return Segment.create(nbytes)
        return Segment(chosen.give_descriptor(), chosen.nbytes)

    def unmapped(self, numbers: Iterable[int]) -> None:
        """Of those that were dropped, nobody in the executor looks into these any more.

        Nor in a process of its. The others are given up: who looks into them has them still.
        """
        for number in numbers:
            segment = self._leaving.pop(number, None)
            if segment is None:
                continue
            held = self.nbytes + sum(each.nbytes for each in (*self._spare, segment))
            if len(self._spare) < _SPARE and held <= self.limit:
                self._spare.append(segment)
            else:
                segment.close_descriptor()
        for segment in self._leaving.values():
            segment.close_descriptor()
        self._leaving.clear()

    def find(self, digest: bytes) -> xpb.Place | None:
        """Where the blob is, if it is here."""
        place = self._places.get(digest)
        if place is not None:
            self._segments.move_to_end(place.segment)
        return place

    def add(self, segment: Segment, blobs: Iterable[tuple[bytes, int, int]]) -> None:
        """Take a segment whose blobs (digest, offset, bytes) are whole."""
        number, self._next = self._next, self._next + 1
        self._segments[number] = segment
        self.nbytes += segment.nbytes
        self._digests[number] = []
        self._used[number] = self._tasks, self._next
        for digest, offset, nbytes in blobs:
            self._digests[number].append(digest)
            self._places[digest] = xpb.Place(segment=number, offset=offset, nbytes=nbytes)

    def descriptor(self, number: int) -> tuple[int, int]:
        """A segment's descriptor and size."""
        segment = self._segments[number]
        return segment.descriptor, segment.nbytes

    def view(self, place: xpb.Place) -> memoryview:
        """A blob's bytes, for as long as anyone looks at them."""
        segment = self._segments[place.segment]
        return segment.view[place.offset : place.offset + place.nbytes]

    def shrink(self, used: Iterable[int]) -> list[int]:
        """A task uses these segments: drop others that are stale or too many; what was dropped."""
        self._tasks += 1
        self._used |= dict.fromkeys(used, (self._tasks, self._next))
        dropped = []
        for number in list(self._segments):
            idle = self._tasks - self._used[number][0]
            if self._is_past(number) or (idle and self.nbytes > self.limit):
                self._drop(number)
                dropped.append(number)
        return dropped

    def _is_past(self, number: int) -> bool:
        task, following = self._used[number]
        if self._tasks - task > _IDLE_TASKS:
            return True
        half = self._segments[number].nbytes / 2
        newer = [each for each in range(following, self._next) if each in self._segments]
        return sum(self._segments[each].nbytes >= half for each in newer) >= _NEWER

    def close(self) -> None:
        """Drop everything."""
        for number in list(self._segments):
            self._drop(number)
        self._leaving.clear()
        self._spare.clear()

    def _drop(self, number: int) -> None:
        segment = self._segments.pop(number)
        self._used.pop(number, None)
        self.nbytes -= segment.nbytes
        for digest in self._digests.pop(number):
            place = self._places.get(digest)
            if place is not None and place.segment == number:
                del self._places[digest]
        if segment.unmap():
            self._leaving[number] = segment
        else:
            segment.close_descriptor()
