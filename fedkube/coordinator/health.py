"""Whether the coordinator lives and is of use, and what it answers to those who ask.

Kubernetes asks two things. ``/healthz``: does the process still do its work, or must it be started
again? ``/readyz``: can it do its work, that is, does it reach the API server with its rights? A
standby is healthy and ready as long as it asks for the lease; a leader, as long as it renews the
lease and its loop turns. Neither depends on the API server's health: starting a coordinator again
would not bring that back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import Gauge, make_wsgi_app

_LEADING = Gauge("fedkube_leading", "1 in the coordinator that leads, 0 in one that stands by")
# A loop turns many times a second; one that does not for so long hangs.
LOOP_S = 30.0
# The election asks every few seconds, and a request to the API server gives up before this.
ELECTION_S = 45.0
# So long an answer of the API server holds for the next question.
ANSWER_S = 30.0


class Pulse:
    """What the election and the loop did last. Safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked = clock()
        self._answered: float | None = None
        self._turned: float | None = None
        self._lacks = ""
        _LEADING.set(0)

    def asked(self, answered: bool) -> None:
        """The lease was asked for, and the API server did or did not answer."""
        self._asked = self._clock()
        if answered:
            self._answered = self._asked

    def turned(self) -> None:
        """The leader's loop is alive."""
        if self._turned is None:
            _LEADING.set(1)
        self._turned = self._clock()

    def lacks(self, what: str) -> None:
        """The leader waits for something that others have to bring; empty: for nothing."""
        self._lacks = what

    @property
    def leads(self) -> bool:
        """Whether the loop has begun."""
        return self._turned is not None

    def hangs(self) -> str | None:
        """Why the process must be started again, if it must."""
        now = self._clock()
        if now - self._asked > ELECTION_S:
            return f"the election has done nothing for {now - self._asked:.0f} s"
        if self._turned is not None and now - self._turned > LOOP_S:
            return f"the leader's loop has not turned for {now - self._turned:.0f} s"
        return None

    def idle(self) -> str | None:
        """Why it is of no use now, if it is not."""
        if why := self.hangs():
            return why
        if self._answered is None:
            return "the API server has not answered yet, or refuses the lease"
        if (silent := self._clock() - self._answered) > ANSWER_S:
            return f"the API server has not answered for {silent:.0f} s"
        return self._lacks or None


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the kubelet asks every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def serve(pulse: Pulse, port: int) -> WSGIServer:
    """Answer at ``/healthz``, ``/readyz`` and ``/metrics`` until the process ends."""
    metrics = make_wsgi_app()
    questions = {"/healthz": pulse.hangs, "/readyz": pulse.idle}

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            page: Iterable[bytes] = metrics(environ, start)
            return page
        if (ask := questions.get(path)) is None:
            status, text = "404 Not Found", "there are /healthz, /readyz and /metrics"
        elif why := ask():
            status, text = "503 Service Unavailable", why
        else:
            status, text = "200 OK", "leads" if pulse.leads else "stands by"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    # Probes come from the node, and Prometheus from another pod.
    server = make_server("0.0.0.0", port, app, _Server, _Quiet)  # noqa: S104
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
