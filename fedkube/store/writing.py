"""Files written from one end to the other; where that is much, past the kernel's page cache.

Nobody reads a model back from the disk at once, and a page that the kernel keeps of it costs more
than its way to the disk: memory has to be found for it, in a container at others' cost. So what is
large goes from a buffer straight to the disk (``O_DIRECT``) where the file system can do that, and
through the page cache where it cannot.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

# What is written at a time, and past the page cache only if there is as much.
PIECE_BYTES = 2 * 1024**2

# Enough for every disk: offsets, lengths and memory have to be multiples of its block's size.
_BLOCK = 4096

_DIRECT = getattr(os, "O_DIRECT", 0)


def write(file: int, parts: Iterable[bytes | memoryview], offset: int = 0) -> int:
    """Write the parts one after the other from ``offset`` on; where the last one ends."""
    filled, free = _buffer(), None
    # What has the same place in a block of the buffer as in one of the file can go to the disk.
    at = first = offset % _BLOCK
    begins = offset - at  # where the buffer's first byte is in the file
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, "disk") as disk:
        for part in parts:
            if len(part) < PIECE_BYTES - at and isinstance(part, bytes):
                filled[at : at + len(part)] = part  # thousands of lines are quicker without views
                at += len(part)
                continue
            rest = memoryview(part).cast("B") if len(part) else memoryview(b"")
            while rest:
                taken = rest[: PIECE_BYTES - at]
                filled[at : at + len(taken)] = taken
                at, rest = at + len(taken), rest[len(taken) :]
                if at < PIECE_BYTES:
                    continue
                # The next buffer is filled while this one is written.
                if writing is not None:
                    writing.result()
                writing = disk.submit(_write_blocks, file, filled, begins, first)
                filled, free = free or _buffer(), filled
                begins += PIECE_BYTES
                at = first = 0
        if writing is not None:
            writing.result()
            whole = at - at % _BLOCK
            _write_blocks(file, filled[:whole], begins, first)
            first = whole
    return _write_all(file, filled[first:at], begins + first)


def _buffer() -> memoryview:
    """Memory that begins where a page does."""
    return memoryview(mmap.mmap(-1, PIECE_BYTES))


def _write_blocks(file: int, blocks: memoryview, begins: int, first: int) -> None:
    """Write whole blocks but for the first so many bytes of them."""
    if first:
        head = min(_BLOCK, len(blocks))
        _write_all(file, blocks[first:head], begins + first)
        blocks, begins = blocks[head:], begins + head
    with _past_the_cache(file) as direct:
        while direct and blocks:
            try:
                count = os.pwrite(file, blocks, begins)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                break  # its blocks are larger, or what was left began in the midst of one
            blocks, begins = blocks[count:], begins + count
    _write_all(file, blocks, begins)


def _write_all(file: int, data: memoryview, offset: int) -> int:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count
    return offset


@contextlib.contextmanager
def _past_the_cache(file: int) -> Iterator[bool]:
    """Writes go to the disk at once; False where the file system has no such writes."""
    if not _DIRECT:
        yield False
        return
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | _DIRECT)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.fcntl(file, fcntl.F_SETFL, flags)
