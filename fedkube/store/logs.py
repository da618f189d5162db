"""Where a journal's bytes are: a log only grows, and one process writes it at a time.

``Log`` is all that a journal knows of its place. ``LocalLog`` is a file; ``object_log`` has another
kind. Whoever writes a kind has it pass ``tests/unit/test_logs.py``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from fedkube.core.errors import Usage
from fedkube.store import atomic, failpoints, writing

# So much is copied at a time.
_PIECE = 1024**2


class NotNow(Exception):
    """The log cannot be written at present, and nothing of what was given is in it.

    Trying again may help. Its text says what is missing, as part of a sentence.
    """


class Log(Protocol):
    """Bytes that only grow, written by the one who has opened it.

    It is read once, before anything is written. ``name``: what a person calls it. Every method
    raises Environment where the log cannot be reached or used, Superseded where another process
    has opened it meanwhile.
    """

    name: str

    def read(self) -> memoryview:
        """All bytes that are there, read-only, and as durable as if this process had written them.

        They stay readable until the process ends, whatever becomes of the log.
        """

    def append(self, parts: Sequence[memoryview]) -> None:
        """Put these bytes at the end; they are durable when this returns.

        Raises NotNow where they can be given again later. After any other error nobody knows
        whether they are there, and the log is not to be used any more.
        """

    def cut(self, size: int) -> None:
        """Only the first so many bytes hold, durably; what follows goes after them."""

    def replace(self, size: int, parts: Sequence[memoryview]) -> None:
        """Cut and append in one: durably, or else nothing has changed.

        Raises NotNow where nothing has changed, and the log can go on as it is.
        """

    def close(self) -> None:
        """Another process may open it. Nothing happens if it is closed already."""

    def delete(self) -> None:
        """Nobody will want it again. It is closed first, or after."""


class LocalLog:
    """A file, locked for as long as it is open: also against processes that merely stand still."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it.

        Raises Usage where another process has it open, Environment where it cannot be read or
        written.
        """
        self.name = str(path)
        self._path = path
        self._file = seize(path)
        self._open = True
        try:
            _successor(path).unlink(missing_ok=True)  # of a life that was killed on the way
            self._size = os.fstat(self._file).st_size
            if not self._size:
                atomic.sync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    def read(self) -> memoryview:
        """All bytes that are there."""
        if not self._size:
            return memoryview(b"")
        try:
            # What a killed process has written and not synced is about to be acted upon.
            os.fsync(self._file)
            return memoryview(mmap.mmap(self._file, self._size, access=mmap.ACCESS_READ))
        except OSError as error:
            raise atomic.trouble(error, self._path) from error

    def append(self, parts: Sequence[memoryview]) -> None:
        """Put these bytes at the end, on the disk."""
        try:
            self._reach("journal.begun")
            end = writing.write(self._file, parts[:2], self._size)
            self._reach("journal.torn")
            end = writing.write(self._file, parts[2:], end)
            self._reach("journal.written")
            os.fdatasync(self._file)
        except OSError as error:
            # It may be there whole and not be on the disk: nobody may read it again.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            if error.errno in atomic.NO_ROOM:
                raise NotNow(f"there is no room for {self.name}") from error
            raise atomic.trouble(error, self._path) from error
        self._reach("journal.synced")
        self._size = end

    def cut(self, size: int) -> None:
        """Only the first so many bytes hold."""
        try:
            # Mappings are of what stays: only pages behind it go.
            os.ftruncate(self._file, size)
            os.fsync(self._file)
        except OSError as error:
            raise atomic.trouble(error, self._path) from error
        self._size = size

    def replace(self, size: int, parts: Sequence[memoryview]) -> None:
        """Cut and append in one: another file takes this one's place."""
        path = _successor(self._path)
        file = seize(path)
        try:
            os.ftruncate(file, 0)
            end = writing.write(file, _pieces(self._file, size))
            end = writing.write(file, parts, end)
            os.fsync(file)
            self._reach("journal.condensing")
            path.rename(self._path)
        except OSError as error:
            os.close(file)
            path.unlink(missing_ok=True)
            if error.errno in atomic.NO_ROOM:
                raise NotNow(f"there is no room to condense {self.name}") from error
            raise atomic.trouble(error, self._path) from error
        # The new file has been locked since it was made: nobody gets in between.
        before, self._file, self._size = self._file, file, end
        fcntl.flock(before, fcntl.LOCK_UN)
        os.close(before)
        atomic.sync_folder(self._path.parent)
        self._reach("journal.condensed")

    def close(self) -> None:
        """Another process may open it."""
        if self._open:
            self._open = False
            # What was read has a descriptor of its own, which would hold the lock as well.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)

    def delete(self) -> None:
        """Nobody will want it again."""
        self._path.unlink(missing_ok=True)
        _successor(self._path).unlink(missing_ok=True)

    def _reach(self, place: str) -> None:
        # The log's beginning is no entry: tests count those.
        if self._size:
            failpoints.reach(place)


def _successor(path: Path) -> Path:
    """The file that is to take a log's place."""
    return path.with_name(f".{path.name}.new")


def _pieces(file: int, size: int) -> Iterator[bytes]:
    """Its first so many bytes."""
    offset = 0
    while offset < size:
        piece = os.pread(file, min(_PIECE, size - offset), offset)
        if not piece:
            raise OSError(errno.EIO, "the journal is shorter than it was")
        yield piece
        offset += len(piece)


def seize(path: Path) -> int:
    """Open a file, or make it, and lock it until it is closed.

    Raises Usage where another process has it locked, Environment where it cannot be opened.
    """
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise atomic.trouble(error, path) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise Usage(
                f"another process has {path} open: the run is going on",
                hint="wait for its end, or end it",
            ) from None
        if _is_at(file, path):
            return file
        os.close(file)  # another has taken its place since it was opened


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
