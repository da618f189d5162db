"""All objects of a kind as they are now: a list, and then what the API server tells of changes.

The watches of kopf are for what there is to do about an object; here nothing is done about any one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from fedkube.coordinator.cluster import Cluster
from fedkube.coordinator.objects import Object

log = logging.getLogger("fedkube.coordinator")

T = TypeVar("T")

_PAUSE_S = 2.0
# A right that is missing is not given by itself, nor is a kind of objects. (But an API server that
# has just begun may refuse for a moment what it will allow: the pauses grow up to this.)
_FORBIDDEN_S = 60.0


class Mirror(Generic[T]):
    """What ``keep`` makes of each object, and None where it is of no interest.

    ``namespace``: empty for all. ``optional``: a cluster may not have the kind, and so has none.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: str,
        namespace: str,
        keep: Callable[[Object], T | None],
        optional: bool = False,
    ) -> None:
        self._optional = optional
        self._cluster = cluster
        self._kind = kind
        self._namespace = namespace
        self._keep = keep
        self._changed: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self._kept: dict[str, T] | None = None
        self.forbidden = False  # for want of a right
        self._refusals = 0  # one after the other
        self._stopped = threading.Event()

    def start(self, changed: Callable[[], object]) -> None:
        """Follow the cluster on a thread of its own, until ``stop`` or the end of the process.

        ``changed``: called on that thread when something kept is another, has come or is gone.
        """
        self._changed = changed
        threading.Thread(target=self._follow, name=f"watch {self._kind}", daemon=True).start()

    def stop(self) -> None:
        """Do not begin another watch."""
        self._stopped.set()

    def now(self) -> list[T] | None:
        """All that is kept; None as long as nothing is known."""
        with self._lock:
            return None if self._kept is None else list(self._kept.values())

    # ------------------------------------------------------------- inside

    def _follow(self) -> None:
        while not self._stopped.is_set():
            pause = _PAUSE_S
            try:
                self._list_and_watch()
            except ApiException as error:
                if error.status == 403:
                    pause = min(_PAUSE_S * 2**self._refusals, _FORBIDDEN_S)
                    self._refusals = min(self._refusals + 1, 10)
                    if not self.forbidden:
                        log.warning("objects %s may not be listed, or not watched", self._kind)
                    self.forbidden = True
                    self._replace(None)
                elif error.status == 404 and self._optional:
                    pause = _FORBIDDEN_S
                    self._replace({})
                elif error.status != 410:  # a version that is too old: the list is new anyway
                    log.warning("watching %s: %s %s", self._kind, error.status, error.reason)
            except (HTTPError, OSError, ValueError) as error:
                log.warning("watching %s: %s", self._kind, error)
            except Exception:
                # Without this thread, whoever looks would see the same for ever.
                log.exception("watching %s", self._kind)
            self._stopped.wait(pause)

    def _list_and_watch(self) -> None:
        found, version = self._cluster.listing(self._kind, self._namespace)
        self.forbidden, self._refusals = False, 0
        kept = {_name(body): self._understood(body) for body in found}
        self._replace({name: each for name, each in kept.items() if each is not None})
        while not self._stopped.is_set():
            for event, body in self._cluster.watch(self._kind, self._namespace, version):
                if event == "ERROR":
                    return
                version = body["metadata"].get("resourceVersion", version)
                if event != "BOOKMARK":
                    self._take(body, gone=event == "DELETED")

    def _understood(self, body: Object) -> T | None:
        """What is kept of an object; one that nobody would write hides no others."""
        try:
            return self._keep(body)
        except Exception:
            log.exception("%s %s is passed over", self._kind, _name(body))
            return None

    def _replace(self, kept: dict[str, T] | None) -> None:
        with self._lock:
            same, self._kept = self._kept == kept, kept
        if not same:
            self._changed()

    def _take(self, body: Object, *, gone: bool) -> None:
        name, new = _name(body), None if gone else self._understood(body)
        with self._lock:
            assert self._kept is not None, "a watch follows upon a list"
            old = self._kept.pop(name, None)
            if new is not None:
                self._kept[name] = new
        if new != old:
            self._changed()


def _name(body: Object) -> str:
    metadata = body["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"
