"""An app's traceback as its author wants to see it: the app's frames, not ours."""

from __future__ import annotations

import traceback
from pathlib import Path

_MAX_CHARS = 8000
_PACKAGE = Path(__file__).parent.parent
_OTHER_PACKAGES = frozenset({"fedkube_server", "fedkube_client"})


def of_app(error: BaseException, folder: str | Path) -> str:
    """The traceback from the app's first frame on, without ours, and with what caused it.

    Without any frame of the app (a module that is not there, say) only the error is left.
    """
    report = traceback.TracebackException.from_exception(error)
    _trim(report, str(Path(folder).resolve()), set())
    text = "".join(report.format()).rstrip()
    if len(text) > _MAX_CHARS:
        half = _MAX_CHARS // 2
        text = f"{text[:half]}\n  [...]\n{text[-half:]}"
    return text


def _trim(report: traceback.TracebackException | None, folder: str, seen: set[int]) -> None:
    if report is None or id(report) in seen:
        return
    seen.add(id(report))
    first = next(
        (i for i, frame in enumerate(report.stack) if frame.filename.startswith(folder)),
        len(report.stack),
    )
    report.stack[:] = [frame for frame in report.stack[first:] if not _is_ours(frame.filename)]
    _trim(report.__cause__, folder, seen)
    _trim(report.__context__, folder, seen)


def _is_ours(filename: str) -> bool:
    path = Path(filename)
    return path.is_relative_to(_PACKAGE) or not _OTHER_PACKAGES.isdisjoint(path.parts)


def headline(details: str) -> str:
    """The last line of a traceback, which says what happened."""
    lines = details.strip().splitlines()
    return lines[-1].strip() if lines else ""
