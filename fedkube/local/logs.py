"""What server and clients print: all of it into ``log.txt``, line by line to whoever looks on."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO

from fedkube.core.errors import Environment
from fedkube.store import atomic

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# So many lines may wait for room on the disk.
_MAX_WAITING = 1_000
# A line without an end is cut here, so that a process that prints no line ends cannot fill memory.
_MAX_LINE = 64 * 1024


class LogBook:
    """``log.txt``. ``show``: called with the source and the line, escape codes removed."""

    def __init__(self, path: Path, show: Callable[[str, str], None]) -> None:
        self._path = path
        self._show: Callable[[str, str], None] | None = show
        self._file: IO[bytes] = open(path, "ab", buffering=0)  # noqa: SIM115
        self._waiting: deque[bytes] = deque()
        self.trouble: Environment | None = None

    def write(self, source: str, line: str) -> None:
        """One line of one process. A log that cannot be written is reported once.

        On a full disk lines wait for room, as the run does, up to a bound.
        """
        line = _ANSI.sub("", line).rstrip()
        text = f"{datetime.now().astimezone():%H:%M:%S.%f} {source:<9} {line}\n"
        self._waiting.append(text.encode("utf-8", "replace"))
        self._write(_MAX_WAITING)
        if self._show is not None:
            try:
                self._show(source, line)
            except OSError:
                self._show = None  # nobody reads our output any more; the log goes on

    async def follow(self, source: str, stream: asyncio.StreamReader) -> None:
        """Write a process's lines until it closes its output."""
        rest = b""
        while chunk := await stream.read(_MAX_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.write(source, line.decode("utf-8", "replace"))
            if len(rest) > _MAX_LINE:
                self.write(source, rest.decode("utf-8", "replace"))
                rest = b""
        if rest:
            self.write(source, rest.decode("utf-8", "replace"))

    def _write(self, most: int) -> None:
        """Write what waits; more than so many lines must not be left."""
        try:
            while self._waiting:
                line = self._waiting[0]
                count = self._file.write(line)
                if count < len(line):
                    self._waiting[0] = line[count:]
                else:
                    self._waiting.popleft()
        except OSError as error:
            if error.errno not in atomic.NO_ROOM or len(self._waiting) > most:
                self.trouble = self.trouble or atomic.trouble(error, self._path)
                self._waiting.clear()

    def close(self) -> None:
        """No more lines."""
        self._write(0)
        try:
            self._file.close()
        except OSError as error:
            self.trouble = self.trouble or atomic.trouble(error, self._path)
