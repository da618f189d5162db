"""Where the bytes of replies land: in memory while that is little, in unnamed files beyond.

The server's memory must not grow with what its clients send. A file's bytes are the kernel's to
keep or to write out, and a file that is not needed any more is used for the next reply: its pages
are there already, so writing to it costs no more than copying.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedkube.core.errors import Environment
from fedkube.core.partial_sums import BLOCK, largest
from fedkube.wire.limits import CHUNK_BYTES, HEAP_BYTES

# Files that are kept for the next replies.
_IDLE_FILES = 4

# Blobs begin at multiples of this, so that any element type is aligned.
_ALIGN = 64

Block = tuple[int, npt.NDArray[np.generic], list[float]]


class Spool:
    """Gives room for replies. ``folder``: where its files are, without names."""

    def __init__(self, folder: Path, heap_bytes: int = HEAP_BYTES) -> None:
        self._folder = folder
        self._heap_left = heap_bytes
        # Sizes of memory that is gone: a collection may end it at any point of any thread, so its
        # end takes no lock and changes no number.
        self._freed: deque[int] = deque()
        self._idle: list[int] = []
        self._lock = threading.Lock()

    def room(self, blobs: Sequence[Landed]) -> Room:
        """Room for an upload's blobs, which are placed in it; Environment where there is none."""
        offsets = []
        end = 0
        for blob in blobs:
            offsets.append(end)
            end += -(-blob.nbytes // _ALIGN) * _ALIGN
        room = self._take(end)
        for blob, offset in zip(blobs, offsets, strict=True):
            blob.place(room, offset)
        return room

    def _take(self, nbytes: int) -> Room:
        with self._lock:
            while self._freed:
                self._heap_left += self._freed.popleft()
            if nbytes <= self._heap_left:
                self._heap_left -= nbytes
                # Not zeroed first: every byte is written before anything reads it.
                memory = np.empty(nbytes, np.uint8)
                # Whoever keeps a view of it keeps it, and is counted until the view is gone.
                weakref.finalize(memory, self._freed.append, nbytes).atexit = False
                return _Memory(memory.data)
            descriptor = self._idle.pop() if self._idle else None
        return _File(self, self._new() if descriptor is None else descriptor, self._folder)

    def close(self) -> None:
        """Give the idle files up."""
        with self._lock:
            while self._idle:
                os.close(self._idle.pop())

    def take_back(self, descriptor: int) -> None:
        """A file that is not used any more."""
        with self._lock:
            if len(self._idle) < _IDLE_FILES:
                self._idle.append(descriptor)
                return
        os.close(descriptor)

    def _new(self) -> int:
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                return os.dup(file.fileno())
        except OSError as error:
            raise _no_room(self._folder, error) from None


class Room(Protocol):
    """What one reply's blobs are written to."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes; Environment if the disk is full."""

    def read(self, offset: int, buffer: memoryview) -> memoryview:
        """Bytes from there on, in the buffer or where they are."""

    def view(self, offset: int, nbytes: int) -> memoryview:
        """The bytes for as long as anyone looks at them; read-only."""

    def close(self) -> None:
        """The room may be used for others, unless it is looked at."""


class _Memory:
    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def write(self, offset: int, data: memoryview) -> None:
        self._memory[offset : offset + len(data)] = data

    def read(self, offset: int, buffer: memoryview) -> memoryview:
        return self._memory[offset : offset + len(buffer)]

    def view(self, offset: int, nbytes: int) -> memoryview:
        return self._memory[offset : offset + nbytes].toreadonly()

    def close(self) -> None:
        self._memory = memoryview(b"")


class _File:
    def __init__(self, spool: Spool, descriptor: int, folder: Path) -> None:
        self._spool = spool
        self._descriptor = descriptor
        self._folder = folder
        self._map: memoryview | None = None

    def write(self, offset: int, data: memoryview) -> None:
        try:
            while data:
                count = os.pwrite(self._descriptor, data, offset)
                data, offset = data[count:], offset + count
        except OSError as error:
            raise _no_room(self._folder, error) from None

    def read(self, offset: int, buffer: memoryview) -> memoryview:
        got = 0
        while got < len(buffer):
            count = os.preadv(self._descriptor, [buffer[got:]], offset + got)
            if not count:
                raise OSError("a file of the server's own became shorter")
            got += count
        return buffer

    def view(self, offset: int, nbytes: int) -> memoryview:
        if not nbytes:
            return memoryview(b"")
        if self._map is None:
            self._map = memoryview(mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ))
        return self._map[offset : offset + nbytes]

    def close(self) -> None:
        if self._descriptor < 0:
            return
        if self._map is None:
            self._spool.take_back(self._descriptor)
        else:
            # Someone may look at it still: the kernel frees it with the last view.
            os.close(self._descriptor)
            self._map = None
        self._descriptor = -1


_NOWHERE = _Memory(memoryview(b""))


def _no_room(folder: Path, error: OSError) -> Environment:
    return Environment(
        f"no room for the clients' updates in {folder}: {error.strerror}",
        hint="free some space there, or put the run folder elsewhere with --out",
    )


class Landed:
    """One blob of an upload, placed when there is room for it.

    ``dtype``: its elements, where they will be summed; then their largest magnitudes are taken
    down, block by block, while the bytes are in the cache.
    """

    __slots__ = ("_known", "_offset", "_room", "dtype", "nbytes", "peaks")

    def __init__(self, nbytes: int, dtype: np.dtype[np.generic] | None = None) -> None:
        self.nbytes = nbytes
        self.dtype = dtype
        self.peaks: list[float] = []
        self._known: dict[np.dtype[np.generic], list[float]] | None = None
        self._room: Room = _NOWHERE
        self._offset = 0

    @classmethod
    def known(
        cls, data: memoryview, peaks: dict[np.dtype[np.generic], list[float]] | None = None
    ) -> Landed:
        """Bytes that the server has already.

        ``peaks``: their magnitudes by element type, which are put there once somebody has asked.
        """
        landed = cls(len(data))
        landed._known = peaks
        landed.place(_Memory(data), 0)
        return landed

    def place(self, room: Room, offset: int) -> None:
        """Where the bytes go."""
        self._room, self._offset = room, offset

    def write(self, offset: int, data: memoryview) -> None:
        """The next chunk; from 0 on if the blob has to come again."""
        self._room.write(self._offset + offset, data)
        if self.dtype is not None:
            if offset == 0:
                self.peaks.clear()
            self.peaks += peaks_of(np.frombuffer(data, self.dtype))

    def view(self) -> memoryview:
        """The bytes, read-only."""
        return self._room.view(self._offset, self.nbytes)

    def read(self, offset: int, nbytes: int) -> memoryview:
        """Some of the bytes, for a moment."""
        return self._room.read(self._offset + offset, memoryview(bytearray(nbytes)))

    def magnitudes(self, dtype: np.dtype[np.generic]) -> list[float]:
        """The largest magnitude of each block of elements of this type."""
        if dtype == self.dtype and self.peaks:
            return self.peaks
        known = None if self._known is None else self._known.get(dtype)
        if known is None:
            known = [peak for _, _, peaks in self.blocks(dtype) for peak in peaks]
            if self._known is not None:
                self._known[dtype] = known
        return known

    def blocks(self, dtype: np.dtype[np.generic]) -> Iterator[Block]:
        """Elements from which on, some blocks of them, and each block's largest magnitude."""
        buffer = np.empty(min(CHUNK_BYTES, self.nbytes), np.uint8).data
        known = self.peaks if dtype == self.dtype and self.peaks else None
        for offset in range(0, self.nbytes, CHUNK_BYTES):
            size = min(CHUNK_BYTES, self.nbytes - offset)
            values = np.frombuffer(self._room.read(self._offset + offset, buffer[:size]), dtype)
            start = offset // dtype.itemsize
            first, count = start // BLOCK, -(-len(values) // BLOCK)
            yield start, values, known[first : first + count] if known else peaks_of(values)


def peaks_of(values: npt.NDArray[np.generic]) -> list[float]:
    """The largest magnitude of each block."""
    return [largest(values[start : start + BLOCK]) for start in range(0, len(values), BLOCK)]
