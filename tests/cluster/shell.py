"""Commands, files and waiting."""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Word = str | int | Path


class ClusterError(Exception):
    """What a person has to be told; nothing more can be done here."""


def run(*command: Word, check: bool = True, quiet: bool = False, cwd: Path | None = None) -> int:
    """Run a command to its end; its exit code."""
    sink = subprocess.DEVNULL if quiet else None
    done = subprocess.run(_words(command), check=False, stdout=sink, stderr=sink, cwd=cwd)
    if check and done.returncode:
        raise ClusterError(f"{' '.join(_words(command)[:8])} ended with {done.returncode}")
    return done.returncode


def output(*command: Word, check: bool = True) -> str:
    """What a command printed."""
    done = subprocess.run(_words(command), check=False, capture_output=True, text=True)
    if check and done.returncode:
        said = done.stderr.strip()[-600:]
        raise ClusterError(f"{' '.join(_words(command)[:8])} ended with {done.returncode}: {said}")
    return done.stdout


def _words(command: Sequence[Word]) -> list[str]:
    return [str(word) for word in command]


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    """A file with this in it, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def wait_for(what: str, look: Callable[[], T | None], seconds: float = 60, every: float = 0.1) -> T:
    """Look until something is there; what was found. A failing look is one that found nothing."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (OSError, ApiError) as error:
            last = error
        time.sleep(every)
    raise ClusterError(f"waited {seconds:.0f} s in vain for {what}" + (f": {last}" if last else ""))


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock: whoever else wants it waits. It ends with the process, however that ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("cluster: waiting for another that builds, stands up or takes down", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


class ApiError(Exception):
    """The API server answered, and not what was hoped for."""
