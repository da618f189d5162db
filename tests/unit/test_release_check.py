"""What `helm test` asks, of servers that answer well, badly or not at all."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from fedkube.coordinator import check, health

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def pulse(clock: Any) -> health.Pulse:
    return health.Pulse(clock)


@pytest.fixture
def url(pulse: health.Pulse) -> Iterator[str]:
    server = health.serve(pulse, 0)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_PAUSE_S", 0.01)


def now_and(seconds: float) -> float:
    return time.monotonic() + seconds


def test_a_coordinator_that_is_ready_is_found_so(url: str, pulse: health.Pulse) -> None:
    pulse.asked(answered=True)
    assert check.ready(url) == f"the coordinator at {url} is ready and stands by"
    pulse.turned()
    assert check.ready(url).endswith("is ready and leads")
    assert check.metrics(url).startswith("its page of metrics has ")


@pytest.mark.usefixtures("impatient")
def test_one_that_is_not_ready_is_told_of_in_its_own_words(url: str) -> None:
    with pytest.raises(ValueError, match="answers 503: the API server has not answered yet"):
        check.insist(lambda: check.ready(url), now_and(0))


@pytest.mark.usefixtures("impatient")
def test_one_that_becomes_ready_is_waited_for(url: str, pulse: health.Pulse) -> None:
    asked: list[None] = []

    def question() -> str:
        asked.append(None)
        if len(asked) == 3:
            pulse.asked(answered=True)
        return check.ready(url)

    assert check.insist(question, now_and(10)).endswith("stands by")
    assert len(asked) == 3


@pytest.mark.usefixtures("impatient")
def test_one_that_is_not_there_is_told_of() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match="refused"):
        check.insist(lambda: check.ready(f"http://127.0.0.1:{port}"), now_and(0))


def a_lease(holder: str | None, seconds: float = 0) -> Callable[[], Any]:
    spec = SimpleNamespace(holder_identity=holder, renew_time=NOW - timedelta(seconds=seconds))
    return lambda: SimpleNamespace(spec=spec)


def test_somebody_has_to_lead() -> None:
    assert check.led(a_lease("fedkube-coordinator-x"), NOW) == "fedkube-coordinator-x leads"
    for nobody in (a_lease(None), a_lease(""), lambda: SimpleNamespace(spec=None)):
        with pytest.raises(ValueError, match="no coordinator leads"):
            check.led(nobody, NOW)
    with pytest.raises(ValueError, match="x led last, 61 s ago"):
        check.led(a_lease("x", 61), NOW)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ApiException(404, "Not Found"), "the API server answers 404 Not Found"),
        (ApiException(403, "Forbidden"), "the API server answers 403 Forbidden"),
        (HTTPError("no route"), "no route"),
    ],
)
def test_a_definition_that_is_not_served_is_told_of(error: Exception, words: str) -> None:
    class Custom:
        def list_namespaced_custom_object(self, *what: str, **_: Any) -> None:
            assert what == ("fedkube.io", "v1alpha1", "ml", "federatedruns")
            raise error

    with pytest.raises(ValueError, match=words):
        check.insist(lambda: check.served(Custom(), "ml"), now_and(0))
