"""What the coordinator answers to the kubelet and to Prometheus, and when it gives up the lead."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from kubernetes import client
from prometheus_client.parser import text_string_to_metric_families
from urllib3.exceptions import HTTPError

from fedkube.coordinator import election, health, reconciler
from fedkube.coordinator import main as coordinator
from fedkube.coordinator.main import Settings

CHART = Path(__file__).parents[2] / "helm" / "fedkube"


@pytest.fixture
def pulse(clock: Any) -> health.Pulse:
    return health.Pulse(clock)


# ---------------------------------------------------------------- what is healthy, what is ready


def test_a_standby_is_healthy_and_ready_while_it_asks_for_the_lease(
    pulse: health.Pulse, clock: Any
) -> None:
    assert pulse.hangs() is None
    assert pulse.idle() == "the API server has not answered yet, or refuses the lease"
    for _ in range(100):
        clock.advance(2)
        pulse.asked(answered=True)
        assert (pulse.hangs(), pulse.idle(), pulse.leads) == (None, None, False)


def test_one_that_cannot_reach_the_api_server_is_not_ready_and_not_started_again(
    pulse: health.Pulse, clock: Any
) -> None:
    pulse.asked(answered=True)
    for _ in range(100):
        clock.advance(5)
        pulse.asked(answered=False)
        assert pulse.hangs() is None
    assert pulse.idle() == "the API server has not answered for 500 s"


def test_an_election_that_hangs_is_started_again(pulse: health.Pulse, clock: Any) -> None:
    pulse.asked(answered=True)
    clock.advance(health.ELECTION_S + 1)
    assert pulse.hangs() == "the election has done nothing for 46 s"


def test_a_leader_whose_loop_hangs_is_started_again_though_its_lease_is_renewed(
    pulse: health.Pulse, clock: Any
) -> None:
    pulse.turned()
    assert pulse.leads
    for _ in range(16):
        assert pulse.hangs() is None
        clock.advance(2)
        pulse.asked(answered=True)
    assert pulse.hangs() == "the leader's loop has not turned for 32 s"
    assert pulse.idle() == pulse.hangs()


def test_a_leader_that_lacks_something_is_not_ready_and_says_what(pulse: health.Pulse) -> None:
    pulse.asked(answered=True)
    pulse.turned()
    pulse.lacks("there is no definition")
    assert (pulse.hangs(), pulse.idle()) == (None, "there is no definition")
    pulse.lacks("")
    assert pulse.idle() is None


# ---------------------------------------------------------------- over HTTP


@pytest.fixture
def ask(pulse: health.Pulse) -> Iterator[Callable[[str], tuple[int, str]]]:
    server = health.serve(pulse, 0)

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{server.server_port}{path}", timeout=5
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    yield get
    server.shutdown()
    server.server_close()


def test_the_probes_are_answered_in_words(
    ask: Callable[[str], tuple[int, str]], pulse: health.Pulse, clock: Any
) -> None:
    assert ask("/healthz") == (200, "stands by\n")
    assert ask("/readyz")[0] == 503
    pulse.asked(answered=True)
    assert ask("/readyz") == (200, "stands by\n")
    pulse.turned()
    assert ask("/readyz") == (200, "leads\n")
    clock.advance(31)
    pulse.asked(answered=True)
    assert ask("/healthz") == (503, "the leader's loop has not turned for 31 s\n")
    assert ask("/secrets")[0] == 404


def test_prometheus_can_read_the_page_and_finds_what_the_dashboard_shows(
    ask: Callable[[str], tuple[int, str]], pulse: health.Pulse
) -> None:
    assert reconciler.Reconciler  # its metrics are in the same registry
    code, page = ask("/metrics")
    assert code == 200
    families = list(text_string_to_metric_families(page))
    names = {sample.name for family in families for sample in family.samples}
    names |= {family.name for family in families}  # one with labels has no sample before its first
    dashboard = (CHART / "files" / "dashboard.json").read_text()
    shown = set(re.findall(r"\b(?:fedkube|process)_[a-z_]+", dashboard))
    assert {"fedkube_leading", "fedkube_runs"} < shown
    assert shown <= names
    lead = {sample.value for family in families for sample in family.samples
            if sample.name == "fedkube_leading"}  # fmt: skip
    assert lead == {0.0}
    pulse.turned()
    assert "fedkube_leading 1.0" in ask("/metrics")[1]


# ---------------------------------------------------------------- the lease


@pytest.fixture
def api_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    server = ApiServer()
    settings = client.Configuration(host=f"http://127.0.0.1:{server.http.server_port}")
    monkeypatch.setattr(client.Configuration, "_default", settings)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_LEASE_S": 5, "_RENEW_S": 2, "_RETRY_S": 1, "_TIMEOUT_S": 1}.items():
        monkeypatch.setattr(election, name, seconds)


def test_the_times_of_the_lease_leave_no_room_for_two_leaders() -> None:
    longest = 2 * election._RETRY_S + election._RENEW_S + 2 * election._TIMEOUT_S
    assert longest < election._LEASE_S


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["hangs", "refuses", "closed"])
def test_a_leader_that_is_cut_off_gives_up_before_the_lease_ends(
    api_server: ApiServer, how: str
) -> None:
    pulse, begun, ended = health.Pulse(), threading.Event(), threading.Event()
    candidate = election.Election("fedkube-coordinator", "ml", "one", pulse)
    threading.Thread(target=candidate.run, args=(begun.set, ended.set), daemon=True).start()
    assert begun.wait(30)
    assert api_server.lease is not None
    assert api_server.lease["spec"]["holderIdentity"] == "one"
    assert pulse.idle() is None
    cut = time.monotonic()
    if how == "hangs":
        api_server.hangs.set()
    elif how == "refuses":
        api_server.refuses = 503
    else:
        api_server.http.shutdown()
        api_server.http.server_close()
    assert ended.wait(30)
    assert time.monotonic() - cut < 15, "it has waited for an answer that takes 20 s"


@pytest.mark.usefixtures("quick")
def test_a_standby_outlives_an_api_server_that_is_away_and_then_leads(
    api_server: ApiServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(election, "_TIMEOUT_S", 30)
    api_server.refuses = 503
    pulse, begun = health.Pulse(), threading.Event()
    candidate = election.Election("fedkube-coordinator", "ml", "two", pulse)
    thread = threading.Thread(target=candidate.run, args=(begun.set, lambda: None), daemon=True)
    thread.start()
    assert not begun.wait(2.5)
    assert thread.is_alive()
    assert pulse.hangs() is None
    assert pulse.idle() is not None
    told = [each.message for each in caplog.records if "lease" in each.message]
    assert len(told) == 1, "said once, and not every few seconds"
    assert "503" in told[0]
    api_server.refuses = 0
    assert begun.wait(30)
    assert pulse.idle() is None
    api_server.refuses = 503  # so that the thread ends


@pytest.mark.usefixtures("quick")
def test_a_leader_that_is_lost_is_followed_when_its_lease_has_ended(api_server: ApiServer) -> None:
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
    api_server.lease = {
        "metadata": {"name": "fedkube-coordinator", "resourceVersion": "1"},
        "spec": {
            "holderIdentity": "lost",
            "leaseDurationSeconds": 5,
            "acquireTime": now,
            "renewTime": now,
        },
    }
    pulse, begun = health.Pulse(), threading.Event()
    candidate = election.Election("fedkube-coordinator", "ml", "four", pulse)
    threading.Thread(target=candidate.run, args=(begun.set, lambda: None), daemon=True).start()
    assert not begun.wait(4), "the lease holds"
    assert (pulse.idle(), pulse.leads) == (None, False), "a standby is ready"
    assert begun.wait(30)
    assert api_server.lease["spec"]["holderIdentity"] == "four"
    api_server.refuses = 503  # so that the thread ends


@pytest.mark.usefixtures("quick")
def test_a_leader_that_resigns_is_followed_at_once_and_comes_not_back(
    api_server: ApiServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(election, "_LEASE_S", 120)
    candidates, begun = {}, {}
    for name in ("one", "two"):
        candidates[name] = election.Election("fedkube-coordinator", "ml", name, health.Pulse())
        begun[name] = threading.Event()
        arguments = (begun[name].set, lambda: None)
        threading.Thread(target=candidates[name].run, args=arguments, daemon=True).start()
        if name == "one":
            assert begun["one"].wait(30)
    candidates["two"].resign()  # it does not lead, so that nothing comes of it
    candidates["three"] = election.Election("fedkube-coordinator", "ml", "three", health.Pulse())
    begun["three"] = threading.Event()
    threading.Thread(
        target=candidates["three"].run, args=(begun["three"].set, lambda: None), daemon=True
    ).start()
    assert not begun["three"].wait(2.5), "the lease holds"
    candidates["one"].resign()
    assert begun["three"].wait(30), "long before the lease would have ended"
    assert not [each for each in caplog.records if "not given back" in each.message]
    assert not begun["two"].is_set()
    assert api_server.lease is not None
    time.sleep(1.5)
    assert api_server.lease["spec"]["holderIdentity"] == "three"
    api_server.refuses = 503  # so that the threads end
    for each in candidates.values():  # those that stand by, too, or they would log for ever
        monkeypatch.setattr(each._lock, "get", lambda *_: sys.exit())


def test_a_renewal_that_is_under_way_does_not_keep_the_lease_from_being_given_back(
    api_server: ApiServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = election.Election("fedkube-coordinator", "ml", "one", health.Pulse())
    spec = {"holderIdentity": "one", "leaseDurationSeconds": 20}
    api_server.lease = {"metadata": {"name": "l", "resourceVersion": "1"}, "spec": spec}
    calls = candidate._lock.api_instance
    read = calls.read_namespaced_lease

    def read_and_renew(*names: str) -> Any:
        found = read(*names)
        if api_server.lease is not None and api_server.lease["metadata"]["resourceVersion"] == "1":
            api_server.lease["metadata"]["resourceVersion"] = "2"
        return found

    monkeypatch.setattr(calls, "read_namespaced_lease", read_and_renew)
    candidate.resign()
    assert api_server.lease is not None
    assert api_server.lease["spec"].get("holderIdentity") is None
    assert "not given back" not in caplog.text


@pytest.mark.parametrize(
    ("refuses", "given_back"), [(0, True), (500, True), (429, True), (403, False)]
)
def test_a_lease_is_given_back_to_an_api_server_that_stands_still_for_a_moment(
    api_server: ApiServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    refuses: int,
    given_back: bool,
) -> None:
    candidate = election.Election("fedkube-coordinator", "ml", "one", health.Pulse())
    spec = {"holderIdentity": "one", "leaseDurationSeconds": 20}
    api_server.lease = {"metadata": {"name": "l", "resourceVersion": "1"}, "spec": spec}
    calls, tries = candidate._lock.api_instance, []
    read = calls.read_namespaced_lease

    def stand_still(*names: str) -> Any:
        tries.append(names)
        if len(tries) < 4:
            raise client.exceptions.ApiException(refuses) if refuses else HTTPError("no answer")
        return read(*names)

    monkeypatch.setattr(calls, "read_namespaced_lease", stand_still)
    assert not candidate.resigned
    candidate.resign()
    assert candidate.resigned, "or who loses a lease would end while it is given back"
    assert api_server.lease is not None
    assert (api_server.lease["spec"].get("holderIdentity") is None) is given_back
    assert ("not given back" in caplog.text) is not given_back
    assert len(tries) == (4 if given_back else 1)


def test_a_lease_that_cannot_be_given_back_ends_by_itself(
    api_server: ApiServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(election, "_RENEW_S", 0.5)
    api_server.refuses = 503
    election.Election("fedkube-coordinator", "ml", "one", health.Pulse()).resign()
    assert "not given back, and ends by itself" in caplog.text


def test_a_leader_waits_until_federated_runs_are_served(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch that began earlier would see no run, ever."""
    monkeypatch.setattr(coordinator, "_PAUSE_S", 0.01)
    pulse = health.Pulse()
    pulse.asked(answered=True)

    async def wait() -> None:
        waiting = asyncio.create_task(coordinator.until_served(client.ApiClient(), "ml", pulse))
        why = "FederatedRuns of the namespace ml cannot be listed: 404 Not Found"
        async with asyncio.timeout(10):
            while pulse.idle() != why:  # noqa: ASYNC110 - nobody is told of it
                await asyncio.sleep(0.01)
        assert not waiting.done()
        api_server.lease = {"items": []}
        async with asyncio.timeout(5):
            await waiting

    asyncio.run(wait())
    assert pulse.idle() is None


# ---------------------------------------------------------------- settings


def test_settings_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IMAGE", "NAMESPACE", "POD", "MAX_RUNS"):
        monkeypatch.delenv(f"FEDKUBE_{name}", raising=False)
    monkeypatch.setenv("FEDKUBE_IMAGE", "i")
    monkeypatch.setenv("FEDKUBE_MAX_RUNS", "many")
    with pytest.raises(ValueError, match="FEDKUBE_NAMESPACE is not set") as caught:
        Settings.read()
    assert "FEDKUBE_POD is not set" in str(caught.value)
    assert "FEDKUBE_MAX_RUNS=many: " in str(caught.value)
    monkeypatch.setenv("FEDKUBE_NAMESPACE", "ml")
    monkeypatch.setenv("FEDKUBE_POD", "p")
    monkeypatch.setenv("FEDKUBE_MAX_RUNS", "3")
    assert Settings.read().max_runs == 3
