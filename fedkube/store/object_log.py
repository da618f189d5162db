"""A log in an object store: S3 and what speaks it, Google Cloud Storage, Azure.

Whatever is put into it is one object below the log's URL, numbered from ``0000000001`` on:

=========  ======================================================================================
4 bytes    ``FKL1``; of kind 3 ``FKL2``, which versions that do not know that kind refuse
4 bytes    kind: 0 bytes of the log, 1 another process has opened it, 2 a cut, 3 a cut, and bytes
16 bytes   who wrote it, drawn anew whenever the log is opened
8 bytes    of a cut: how many of the bytes before it hold
the rest   bytes of the log
=========  ======================================================================================

An object is created only if there is none of its number, which the store sees to. So of two servers
that both believe the run to be theirs, one puts its object at the next number, and the other learns
that it was superseded before anybody has acted upon what it wanted to put there. Whoever opens a
log puts an object of kind 1 first: from then on none of an earlier server's can get in. For the
same reason no object is deleted before the log as a whole is; those whose bytes hold no longer are
written anew without them, once an object of kind 3 is there.
"""

from __future__ import annotations

import logging
import mmap
import os
import re
import struct
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedkube.core.errors import Environment, FedKubeError, Superseded
from fedkube.store import atomic, failpoints
from fedkube.store.logs import NotNow, seize

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_HEADER = struct.Struct("<4sI16sQ")
_BYTES, _OPENED, _CUT, _REPLACED = 0, 1, 2, 3
_FORMATS = {_BYTES: b"FKL1", _OPENED: b"FKL1", _CUT: b"FKL1", _REPLACED: b"FKL2"}
_NUMBER = re.compile("[0-9]{10}")

# S3 takes no more in one request, and only one request can be conditional.
_MOST_BYTES = 5 * 1024**3
# So many objects are fetched at a time.
_FETCHED = 8
# Of one request: a large model on a slow line.
_REQUEST = timedelta(minutes=10)
_CONNECT = timedelta(seconds=5)
# Beyond these it is said that the store cannot be reached.
_RETRIES = 4
_RETRY = timedelta(seconds=15)
# While the run folder is in use; as a file's own lock is for a journal in it.
LOCK = ".lock"

log = logging.getLogger("fedkube.store")


class ObjectLog:
    """A log in an object store, taken from whoever had it open.

    ``name``: its URL. ``folder``: the run's, which another process of this machine cannot use while
    the log is open.
    """

    def __init__(self, store: ObjectStore, name: str, folder: Path) -> None:
        """Open it.

        Raises Usage where another process of this machine has it open, Environment where the store
        cannot be reached, or overwrites objects that are to be created.
        """
        self.name = name
        self._store = store
        self._folder = folder
        self._writer = os.urandom(16)
        self._size = 0
        # Objects whose bytes are the log's, each with where in it they begin.
        self._held: list[tuple[int, int]] = []
        # Objects whose bytes are not any more, and that are still to be emptied.
        self._dead: list[int] = []
        self._emptying = ThreadPoolExecutor(1, "emptying")
        self._lock: int | None = seize(folder / LOCK)
        try:
            self._next = self._take_over()
        except BaseException:
            self.close()
            raise

    @classmethod
    def at(cls, url: str, folder: Path) -> ObjectLog:
        """The log at a URL."""
        return cls(_store(url), url, folder)

    @staticmethod
    def exists(url: str) -> bool:
        """Whether there is a log at a URL; Environment where the store cannot be reached."""
        return bool(_numbers(_store(url), url))

    def read(self) -> memoryview:
        """All bytes that are there."""
        with tempfile.TemporaryFile(dir=self._folder) as spool:
            size = 0
            try:
                for number, kind, kept, data in self._objects():
                    if kind in (_CUT, _REPLACED):
                        size = kept
                        spool.truncate(size)
                        self._let_go(size)
                    if kind in (_BYTES, _REPLACED) and data:
                        self._held.append((number, size))
                        spool.seek(size)
                        spool.write(data)
                        size += len(data)
                spool.flush()
            except OSError as error:
                raise atomic.trouble(error, self._folder) from error
            self._size = size
            if not size:
                return memoryview(b"")
            return memoryview(mmap.mmap(spool.fileno(), size, access=mmap.ACCESS_READ))

    def append(self, parts: Sequence[memoryview]) -> None:
        """Put these bytes at the end, in the store."""
        if self._size:
            failpoints.reach("journal.begun")
        self._held.append((self._put(_BYTES, parts=parts), self._size))
        if self._size:
            failpoints.reach("journal.synced")
        self._size += sum(map(len, parts))

    def cut(self, size: int) -> None:
        """Only the first so many bytes hold."""
        if size < self._size:
            self._put(_CUT, size)
            self._let_go(size)
            self._size = size

    def replace(self, size: int, parts: Sequence[memoryview]) -> None:
        """Cut and append in one object; those of which nothing holds any more are emptied."""
        failpoints.reach("journal.condensing")
        number = self._put(_REPLACED, size, parts)
        failpoints.reach("journal.condensed")
        self._let_go(size)
        self._held.append((number, size))
        self._size = size + sum(map(len, parts))
        dead, self._dead = self._dead, []
        self._emptying.submit(self._empty, dead)

    def close(self) -> None:
        """Another process of this machine may open it."""
        self._emptying.shutdown()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def delete(self) -> None:
        """Nobody will want it again.

        A server that was superseded and comes back after this finds nothing that tells it so.
        """
        import obstore

        self._emptying.shutdown()  # which would put objects where none are to be left
        numbers = _numbers(self._store, self.name)
        try:
            obstore.delete(self._store, [_path(number) for number in numbers])
        except obstore.exceptions.BaseError as error:
            raise _unreachable(self.name, error) from error
        (self._folder / LOCK).unlink(missing_ok=True)

    # ------------------------------------------------------------- inside

    def _take_over(self) -> int:
        """Put the object that keeps others out; the number after it."""
        number = len(_numbers(self._store, self.name)) + 1
        try:
            while not self._create(number, _OPENED):
                number += 1  # somebody still writes, whose entry counts
            # Its own object is there; a store that takes it again would take anybody's.
            again = self._create(number, _OPENED)
        except NotNow as trouble:
            raise Environment(f"the journal cannot be opened: {trouble}") from trouble
        if again:
            raise Environment(
                f"{self.name} is in a store that overwrites objects which are only to be created "
                "(If-None-Match), so two servers could write there at once",
                hint="keep the journal in the run folder, or in another store",
            )
        return number + 1

    def _let_go(self, size: int) -> None:
        """Nothing holds of the objects whose bytes begin at ``size`` or after it."""
        self._dead += [number for number, start in self._held if start >= size]
        self._held = [(number, start) for number, start in self._held if start < size]

    def _empty(self, numbers: Sequence[int]) -> None:
        """Have these objects hold no bytes, so that the store need not keep them."""
        import obstore

        data = _HEADER.pack(_FORMATS[_BYTES], _BYTES, self._writer, 0)
        try:
            with ThreadPoolExecutor(_FETCHED) as pool:
                put = partial(obstore.put, self._store, file=data, use_multipart=False)
                # A few at a time: of a store that is away, the others are not tried.
                for start in range(0, len(numbers), _FETCHED):
                    list(pool.map(put, map(_path, numbers[start : start + _FETCHED])))
        except (obstore.exceptions.BaseError, OSError) as error:
            log.warning(
                "%s: what was condensed takes up room there until the run has ended: %s",
                self.name,
                _first_line(error),
            )

    def _put(self, kind: int, kept: int = 0, parts: Sequence[memoryview] = ()) -> int:
        """Put the next object, and return its number."""
        if not self._create(self._next, kind, kept, parts) and not self._wrote(self._next):
            raise Superseded(
                f"another server has taken over {self.name}, where the run goes on; this one ends"
            )
        self._next += 1
        return self._next - 1

    def _create(
        self, number: int, kind: int, kept: int = 0, parts: Sequence[memoryview] = ()
    ) -> bool:
        """Put an object; False if there is one of this number."""
        import obstore

        data = b"".join((_HEADER.pack(_FORMATS[kind], kind, self._writer, kept), *parts))
        if len(data) > _MOST_BYTES:
            raise Environment(
                f"an entry of the journal has {len(data):,} bytes, and an object holds at most "
                f"{_MOST_BYTES:,}",
                hint="keep the journal in the run folder",
            )
        try:
            obstore.put(self._store, _path(number), data, mode="create", use_multipart=False)
        except obstore.exceptions.AlreadyExistsError:
            return False
        except obstore.exceptions.GenericError as error:
            raise NotNow(f"{self.name} cannot be written ({_first_line(error)})") from error
        except (obstore.exceptions.BaseError, OSError) as error:
            raise _unreachable(self.name, error) from error
        return True

    def _wrote(self, number: int) -> bool:
        """Whether an object is of this process, to which the store's word of that was lost."""
        try:
            data = self._get(number)
        except (Environment, FileNotFoundError) as error:
            raise NotNow(f"{self.name} cannot be read") from error
        return bytes(data[8:24]) == self._writer

    def _objects(self) -> Iterator[tuple[int, int, int, memoryview]]:
        """What was put before this process opened the log: number, kind, bytes kept, bytes."""
        numbers = range(1, self._next - 1)
        with ThreadPoolExecutor(_FETCHED) as pool:
            for start in range(0, len(numbers), _FETCHED):
                some = numbers[start : start + _FETCHED]
                for number, data in zip(some, pool.map(self._get, some), strict=True):
                    if len(data) < _HEADER.size or data[:4] not in _FORMATS.values():
                        raise Environment(
                            f"{self.name}/{_path(number)} is no part of a journal that this "
                            "version of FedKube reads"
                        )
                    _, kind, _, kept = _HEADER.unpack(data[: _HEADER.size])
                    yield number, kind, kept, data[_HEADER.size :]

    def _get(self, number: int) -> memoryview:
        import obstore

        try:
            return memoryview(obstore.get(self._store, _path(number)).bytes())
        except FileNotFoundError as error:
            raise Environment(f"{self.name} lacks the object {_path(number)}") from error
        except obstore.exceptions.BaseError as error:
            raise _unreachable(self.name, error) from error


def _store(url: str) -> ObjectStore:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise Environment(
            "a journal behind a URL needs fedkube[objects]",
            hint="pip install 'fedkube[objects]', in the image of the run's server",
        ) from None
    # Unencrypted only where a person has said so: the journal has the clients' updates.
    plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
    try:
        store: ObjectStore = from_url(
            url,
            client_options={"timeout": _REQUEST, "connect_timeout": _CONNECT, "allow_http": plain},
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY},
        )
    except (BaseError, ValueError) as error:
        raise _unreachable(url, error) from error
    return store


def _numbers(store: ObjectStore, name: str) -> list[int]:
    """Those of the log's objects; Environment where one is missing."""
    import obstore

    try:
        found = sorted(
            int(each["path"])
            for some in obstore.list(store)
            for each in some
            if _NUMBER.fullmatch(each["path"])
        )
    except (obstore.exceptions.BaseError, OSError) as error:
        raise _unreachable(name, error) from error
    for number, there in enumerate(found, 1):
        if number != there:
            raise Environment(f"{name} lacks the object {_path(number)}")
    return found


def _path(number: int) -> str:
    return f"{number:010d}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unreachable(name: str, error: Exception) -> FedKubeError:
    return Environment(f"{name} cannot be used: {_first_line(error)}")
