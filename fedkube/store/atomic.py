"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from fedkube.core.errors import Environment
from fedkube.store import writing

# What passes when somebody frees space.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_FULL = (*NO_ROOM, errno.EFBIG)


def write(path: Path, *content: bytes | memoryview) -> None:
    """Put a file in place in one step: a reader, or a crash, sees the old one or the new one.

    ``content``: the file's bytes, in as many parts as they are in already. Raises Environment, with
    the old file untouched, when the disk is full or cannot be written.
    """
    write_parts(path, content)


def write_parts(path: Path, content: Iterable[bytes | memoryview]) -> None:
    """The same of parts that may be made while they are written, from the old file even."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            writing.write(file.fileno(), content)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise trouble(error, path) from error
    sync_folder(path.parent)


def clear_away(folder: Path) -> None:
    """Delete what writers have left that were killed. Nobody else may be writing there."""
    for path in folder.rglob(".*.[0-9]*.tmp"):
        path.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def trouble(error: OSError, path: Path) -> Environment:
    """The error of a write, in words."""
    if error.errno in _FULL:
        return Environment(
            f"the disk is full: cannot write {path}",
            hint="free some space, or choose another folder with --out; what was written before "
            "is still there",
        )
    return Environment(f"cannot write {path}: {error.strerror or error}")
