"""``fedkube pull``: a run's model, history and record, from its disk in the cluster."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from fedkube.cli.cluster import reader, runs
from fedkube.cli.cluster.connection import connect
from fedkube.cli.cluster.options import Context, Name, Namespace, note
from fedkube.cli.words import bytes_in_words
from fedkube.core.errors import Environment, Usage
from fedkube.store import atomic

if TYPE_CHECKING:
    from fedkube.cli.cluster.api import Api

Object = dict[str, Any]

_MODEL = "model.safetensors"
_HISTORY = ("run.json", "history.json", "history.csv")
# A transfer that broke goes on from where it was; so many breaks without a byte end it.
_TRIES = 5
_PAUSE_S = 1.0


class Part(StrEnum):
    """What to pull."""

    MODEL = "model"
    HISTORY = "history"
    ALL = "all"


_NAMES = {
    Part.MODEL: (_MODEL,),
    Part.HISTORY: _HISTORY,
    Part.ALL: (*_HISTORY, "metrics.png", "log.txt", _MODEL),
}


def pull(
    run: Name,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The folder to write into. Default: runs/RUN.", show_default=False
        ),
    ] = None,
    only: Annotated[
        Part, typer.Option("--only", help="model, history (with the record), or all there is.")
    ] = Part.ALL,
    image: Annotated[
        str,
        typer.Option(
            "--image",
            help="Of the pod that reads the disk; it needs Python. Default: the run's.",
            show_default=False,
        ),
    ] = "",
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Fetch a run's model, history and record; prints the folder.

    A pod reads the run's disk for a moment: that takes the rights to create pods and pods/exec.
    """
    folder = out or Path("runs") / run
    with connect(namespace, context) as (cluster, space):
        found = runs.get(cluster, space, run)
        status = runs.status(found)
        if not status.state.final:
            raise Usage(f"run {run!r} is {status.state}", hint="wait for its end, or watch it")
        if status.started_at is None:
            raise Usage(f"run {run!r} never began, so it has left nothing: {runs.why(found)}")
        if only is Part.MODEL and status.model is None:
            raise Usage(f"run {run!r} has no model: {runs.why(found)}")
        with _staging(folder) as staging, _ended_by_signals():
            fetched = _fetch(cluster, found, only, image, staging)
            # All is there and right: only now is anything of an earlier pull replaced.
            for name in fetched:
                os.replace(staging / name, folder / name)
    for name, size in fetched.items():
        note(f"  {name}  {bytes_in_words(size)}")
    typer.echo(str(folder))


def _fetch(cluster: Api, run: Object, only: Part, image: str, staging: Path) -> dict[str, int]:
    """Fetch the files into a folder; their sizes by name."""
    metadata, names = run["metadata"], _NAMES[only]
    claim, folder = reader.place(run)
    if cluster.find("PersistentVolumeClaim", metadata["namespace"], claim) is None:
        raise Usage(f"the run's disk, claim {claim!r}, is gone, and with it what was on it")
    reader.clear_away(cluster, metadata["namespace"], metadata["name"])
    chosen, template = reader.image_and_template(cluster, run, image)
    body = reader.pod(run, claim, chosen, template)
    with reader.running(cluster, body) as (pod, container):
        source = _Source(cluster, metadata["namespace"], pod, container, folder)
        listed = source.listing(names)
        if not listed:
            raise Environment(f"the run's disk has none of {', '.join(names)}")
        for name, (size, digest) in listed.items():
            source.copy(name, size, digest, staging / name)
    model = runs.status(run).model
    if model is not None and _MODEL in names:
        if _MODEL not in listed:
            raise Environment(f"the run's disk has no {_MODEL}, though the run tells of one")
        if listed[_MODEL][1] != model.sha256:
            raise Environment(f"{_MODEL} on the run's disk has another digest than the run tells")
    return {name: size for name, (size, _) in listed.items()}


class _Source:
    """Files of a run folder, by commands in a pod; broken connections are taken up again."""

    def __init__(self, cluster: Api, space: str, pod: str, container: str, folder: str) -> None:
        self._cluster = cluster
        self._where = (space, pod, container)
        self._folder = folder

    def listing(self, names: tuple[str, ...]) -> dict[str, tuple[int, str]]:
        """Size and digest of those of the files that are there."""
        with tempfile.TemporaryFile() as printed:

            def again() -> list[str]:
                printed.seek(0)
                printed.truncate()
                return reader.listing_command(self._folder, names)

            self._run(again, printed, "list the run's files")
            printed.seek(0)
            return reader.parse_listing(printed.read(), names)

    def copy(self, name: str, size: int, digest: str, target: Path) -> None:
        """A file, and that it is the one that was listed."""
        with target.open("w+b") as file:

            def onwards() -> list[str]:
                return reader.sending_command(self._folder, name, file.tell())

            try:
                self._run(onwards, file, f"send {name}")
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise atomic.trouble(error, target) from None
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise Environment(
                    f"{name} came with another digest than it has on the run's disk "
                    f"({file.tell():,} of {size:,} bytes)",
                    hint="pull again",
                )

    def _run(self, command: Any, into: IO[bytes], what: str) -> None:
        from fedkube.cli.cluster.api import CommandFailed, CutOff

        idle = 0
        while True:
            before = into.tell()
            try:
                self._cluster.execute(*self._where, command(), into.write)
                return
            except CommandFailed as error:
                raise Environment(
                    f"the pod could not {what}: {error}",
                    hint="--image takes an image that has Python",
                ) from None
            except CutOff as error:
                idle = 0 if into.tell() > before else idle + 1
                if idle >= _TRIES:
                    raise Environment(f"the pod could not {what}: {error}") from None
                note(f"the connection broke ({error}); going on")
                time.sleep(_PAUSE_S * (idle + 1))


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder beside the files' places, on the same disk, so that they can be put in one step."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".pull-", dir=folder))
    except OSError as error:
        raise atomic.trouble(error, folder) from None
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that the pod is deleted."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
