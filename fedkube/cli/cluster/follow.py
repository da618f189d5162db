"""An object and every change of it, as the cluster tells of them; an API server may come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from fedkube.cli.cluster.api import Api
from fedkube.cli.cluster.refusals import PASSING, message_of

Object = dict[str, Any]

_PAUSES_S = (0.5, 1.0, 2.0, 5.0)
# A server that has just started may not know yet who may do what, nor of our kind of object.
_AWAKE_S = 60.0
_GONE = 410


@dataclass(frozen=True, slots=True)
class Away:
    """The API server does not answer; it is tried again."""

    why: str


# Finds what is there now, and the version from which a watch goes on; None: there is no more.
Look = Callable[[], tuple[list[Object], str] | None]


def changes(cluster: Api, kind: str, space: str, name: str) -> Iterator[Object | Away]:
    """The object as it is, then after each change; it ends when the object is gone."""

    def look() -> tuple[list[Object], str] | None:
        found = cluster.find(kind, space, name)
        return None if found is None else ([found], found["metadata"]["resourceVersion"])

    for seen in happenings(cluster, kind, space, look, f"metadata.name={name}"):
        if isinstance(seen, Away):
            yield seen
        elif seen[0] == "DELETED":
            return
        else:
            yield seen[1]


def happenings(
    cluster: Api,
    kind: str,
    space: str,
    look: Look,
    fields: str = "",
    wanted: Callable[[str, Object], bool] = lambda happened, body: True,
) -> Iterator[tuple[str, Object] | Away]:
    """What there is, as SEEN, then what happens to it (ADDED, MODIFIED, DELETED), for ever.

    After a break all is SEEN anew. What goes wrong at the first request is raised; later on only
    what will not pass is. ``wanted``: of what happens; it may ask the API server as well.
    """
    version = ""
    patience = Patience()
    while True:
        try:
            if not version:
                found = look()
                patience.answered()
                if found is None:
                    return
                yield from (("SEEN", body) for body in found[0])
                version = found[1]
            began = time.monotonic()
            for event, body in cluster.watch(kind, space, version, fields):
                patience.answered()
                if event == "ERROR":
                    # Mostly 410: the server has forgotten that version.
                    version = ""
                    break
                version = body["metadata"]["resourceVersion"]
                if event != "BOOKMARK" and wanted(event, body):
                    yield event, body
            # Something on the way that ends each watch at once must not make this a hot loop.
            if time.monotonic() - began < 1:
                time.sleep(1)
        except (ApiException, HTTPError) as error:
            version = ""
            if isinstance(error, ApiException) and error.status == _GONE:
                continue
            pause_s = patience.lost(error)
            yield Away(_why(error))
            time.sleep(pause_s)


class Patience:
    """How long to wait after a failure, and which failures are none that pass."""

    def __init__(self) -> None:
        self._tries = 0
        self._ever = False
        self._lost_at = float("-inf")

    def answered(self) -> None:
        """The server has done what it was asked for."""
        self._tries, self._ever = 0, True

    def lost(self, error: ApiException | HTTPError) -> float:
        """Seconds to wait before the next try; raises an error that will not pass."""
        now = time.monotonic()
        passing = not isinstance(error, ApiException) or error.status in PASSING
        waking = now - self._lost_at < _AWAKE_S
        if not self._ever or not (passing or waking):
            raise error
        if passing:
            self._lost_at = now
        self._tries += 1
        return _PAUSES_S[min(self._tries, len(_PAUSES_S)) - 1]


def _why(error: ApiException | HTTPError) -> str:
    if isinstance(error, ApiException):
        return f"{error.status}: {message_of(error)}"
    return str(error).rpartition("] ")[2] or str(error)
