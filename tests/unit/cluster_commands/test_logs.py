from __future__ import annotations

import threading
import time

import pytest
from cluster_commands import a_pod, a_run, an_event
from fake_kubernetes import status

from fedkube.cli.cluster import logs


def line(second, text, fraction="123456789"):
    return f"2026-01-01T10:00:{second:02d}.{fraction}Z", text


def old(pod, when="2026-01-01T09:00:00Z"):
    pod["metadata"]["creationTimestamp"] = when
    return pod


def until_asked(kubernetes, part):
    """Wait until a command has asked for it, however long that takes to start."""
    while not kubernetes.asked("GET", part):
        time.sleep(0.01)


def until_told(kubernetes):
    """Wait until a line of a log has been sent."""
    while not kubernetes.lines_told:
        time.sleep(0.01)


def until_seen(kubernetes):
    """Wait until a command has acted upon what pods there are now: it has asked twice more."""
    asked = kubernetes.asked("GET", "/pods?")
    while kubernetes.asked("GET", "/pods?") < asked + 2:
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(logs, "_PAUSE_S", 0.03)


@pytest.fixture
def run(kubernetes):
    kubernetes.put("federatedruns", a_run())
    kubernetes.put("pods", old(a_pod("digits-server-a")))
    kubernetes.put("pods", old(a_pod("digits-workers-b", "worker")))
    kubernetes.put("pods", a_pod("digits-workers-c", "worker"))
    kubernetes.put("pods", a_pod("digits-pull-d", "reader"))
    kubernetes.logs = {
        "digits-server-a": [line(1, "one"), line(2, "two"), line(3, "three")],
        "digits-workers-b": [line(1, "of b")],
        "digits-workers-c": [line(1, "of c")],
    }


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ((), "one\ntwo\nthree\n"),
        (("--tail", "2"), "two\nthree\n"),
        (("--tail", "0"), ""),
        (("--worker",), "of c\n"),
        (("--pod", "digits-workers-b"), "of b\n"),
    ],
)
def test_what_a_pod_has_printed(kubernetes, fedkube, run, words, out):
    done = fedkube("logs", "digits", *words)
    assert (done.code, done.out) == (0, out), done.err


def test_of_the_life_before(kubernetes, fedkube, run):
    assert fedkube("logs", "digits", "--previous").code == 0
    assert kubernetes.asked("GET", "previous=true") == 1
    words = "previous terminated container not found"
    kubernetes.refusals.append(
        lambda method, path: (400, status(400, words)) if "/log" in path else None
    )
    done = fedkube("logs", "digits", "--previous")
    assert done.code == 5
    assert words in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pod", "other"), "has no pod 'other'"),
        (("--pod", "digits-pull-d"), "its pods are: digits-server-a"),
        (("--worker", "--pod", "x"), "exclude each other"),
        (("--stream", "--previous"), "exclude each other"),
        (("--tail", "-1"), "--tail is -1"),
    ],
)
def test_what_cannot_be_asked_for(kubernetes, fedkube, run, words, said):
    done = fedkube("logs", "digits", *words)
    assert done.code == 2
    assert said in done.err


def test_there_is_no_pod(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run())
    done = fedkube("logs", "digits", "--worker")
    assert done.code == 2
    assert "run 'digits' has no worker pod" in done.err


def test_a_pod_that_has_not_begun_says_why(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run())
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    container = {"name": "server", "image": "gone:1", "state": waiting}
    kubernetes.put("pods", a_pod("digits-server-a", phase="Pending", containerStatuses=[container]))
    done = fedkube("logs", "digits")
    assert done.code == 5
    assert "has not begun" in done.err
    assert "ErrImagePull (image gone:1): no such image" in done.err


def test_a_pod_that_could_not_be_prepared_has_the_words_of_that(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run())
    prepared = [{"name": "bundle", "state": {"terminated": {"exitCode": 1}}}]
    pod = a_pod("digits-server-a", phase="Failed", initContainerStatuses=prepared)
    kubernetes.put("pods", pod)
    kubernetes.logs = {"digits-server-a": [line(1, "fedkube: the bundle is no zip file")]}
    assert "no zip file" in fedkube("logs", "digits").out
    assert kubernetes.asked("GET", "container=bundle") == 1


def test_a_stream_follows_the_pod_that_takes_over(kubernetes, fedkube, run):
    def life():
        until_told(kubernetes)
        kubernetes.logs["digits-server-a"].append(line(4, "four"))
        kubernetes.change("pods", "digits-server-a", status={"phase": "Failed"})
        kubernetes.logs["digits-server-z"] = [line(5, "five")]
        kubernetes.put("pods", a_pod("digits-server-z", phase="Pending"))
        until_seen(kubernetes)
        kubernetes.put("pods", a_pod("digits-server-z"))
        time.sleep(0.2)
        kubernetes.logs["digits-server-z"].append(line(6, "six"))
        kubernetes.change("federatedruns", "digits", status=a_run(state="Succeeded")["status"])
        kubernetes.change("pods", "digits-server-z", status=a_pod("x", phase="Succeeded")["status"])

    thread = threading.Thread(target=life)
    thread.start()
    done = fedkube("logs", "digits", "-f", "--tail", "1")
    thread.join()
    assert (done.code, done.out) == (0, "three\nfour\nfive\nsix\n"), done.err
    assert "-- log of pod digits-server-a" in done.err
    assert "-- waiting for pod digits-server-z" in done.err


def test_a_stream_that_breaks_goes_on_without_losing_or_repeating(kubernetes, fedkube, run):
    def life():
        until_asked(kubernetes, "/log?")
        time.sleep(0.4)
        kubernetes.stop()
        # Of the second of the last line, one more: it is not the same line.
        kubernetes.logs["digits-server-a"].append(line(3, "later in that second", "2"))
        kubernetes.logs["digits-server-a"].append(line(9, "nine"))
        time.sleep(0.4)
        kubernetes.start()
        time.sleep(0.3)
        kubernetes.change("federatedruns", "digits", status=a_run(state="Succeeded")["status"])
        kubernetes.change("pods", "digits-server-a", status=a_pod("x", phase="Succeeded")["status"])

    thread = threading.Thread(target=life)
    thread.start()
    done = fedkube("logs", "digits", "--stream")
    thread.join()
    assert (done.code, done.out) == (0, "one\ntwo\nthree\nlater in that second\nnine\n"), done.err
    assert "the cluster does not answer" in done.err


def test_a_stream_waits_for_the_first_pod(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run(state="Queued"))

    def life():
        until_seen(kubernetes)
        kubernetes.logs["digits-server-a"] = [line(1, "one")]
        kubernetes.put("pods", a_pod("digits-server-a"))
        time.sleep(0.2)
        kubernetes.change("federatedruns", "digits", status=a_run(state="Failed")["status"])
        kubernetes.change("pods", "digits-server-a", status=a_pod("x", phase="Failed")["status"])

    thread = threading.Thread(target=life)
    thread.start()
    done = fedkube("logs", "digits", "--stream")
    thread.join()
    assert (done.code, done.out) == (0, "one\n")
    assert done.err.startswith("-- waiting for a pod\n")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-01-01T10:00:00.1Z", "2026-01-01T10:00:00.15Z"),
        ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00.000000001Z"),
        ("2026-01-01T12:00:00.5+02:00", "2026-01-01T10:00:00.6Z"),
        ("2026-01-01T10:00:00.999999999Z", "2026-01-01T10:00:01Z"),
    ],
)
def test_times_are_compared_to_the_nanosecond(earlier, later):
    assert logs._instant(earlier) < logs._instant(later)
    assert logs._second(earlier) <= logs._second(later)


# ---------------------------------------------------------------- events


@pytest.fixture
def told(kubernetes):
    kubernetes.put("federatedruns", a_run())
    kubernetes.put("federatedruns", a_run("digits-server"))
    for name, about, when, kind in (
        ("a", "digits", "2026-01-01T10:00:03Z", "FederatedRun"),
        ("b", "digits-server", "2026-01-01T10:00:01Z", "FederatedRun"),
        ("c", "digits-server-x7k2p", "2026-01-01T10:00:02Z", "Pod"),
        ("d", "digits-run", "2026-01-01T10:00:00Z", "PersistentVolumeClaim"),
        ("e", "digitsaurus", "2026-01-01T10:00:00Z", "Pod"),
        ("f", "digits-workers", "2026-01-01T10:00:04Z", "Job"),
    ):
        kubernetes.put("events", an_event(name, about, when, kind))


def test_events_of_all_that_belongs_to_a_run_by_time(kubernetes, fedkube, told):
    objects = [each["object"] for each in fedkube("events", "digits", "--format", "json").json]
    assert objects == [
        "PersistentVolumeClaim/digits-run",
        "FederatedRun/digits",
        "Job/digits-workers",
    ]
    objects = [
        each["object"] for each in fedkube("events", "digits-server", "--format", "json").json
    ]
    assert objects == ["FederatedRun/digits-server", "Pod/digits-server-x7k2p"]


def test_events_as_lines(kubernetes, fedkube, told):
    event = an_event("g", "digits-run", "2026-01-01T11:00:00Z", count=7)
    kubernetes.put("events", event | {"type": "Warning", "reason": "Failed", "message": "a\nb"})
    lines = fedkube("events", "digits").out.splitlines()
    assert len(lines) == 4
    assert lines[-1].split()[1:] == ["Warning", "Failed", "Pod/digits-run", "(x7):", "a", "b"]


def test_no_events(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run())
    done = fedkube("events", "digits")
    assert (done.code, done.out) == (0, "")
    assert "no events of digits" in done.err


def test_a_stream_of_events_has_no_end_to_print_as_json(kubernetes, fedkube, told):
    assert fedkube("events", "digits", "--stream", "--format", "json").code == 2


def test_events_as_they_come_across_an_outage(kubernetes, fedkube, told):
    process = fedkube.begin("events", "digits", "--stream")
    assert "digits-run" in process.stdout.readline()
    for _ in range(2):
        process.stdout.readline()
    while not kubernetes.asked("GET", "watch=true"):
        time.sleep(0.02)
    kubernetes.put("events", an_event("h", "digits-workers-1", "2026-01-01T10:01:00Z"))
    kubernetes.put("events", an_event("i", "digits-server-1", "2026-01-01T10:01:00Z"))
    assert "digits-workers-1" in process.stdout.readline()
    kubernetes.stop()
    kubernetes.put("events", an_event("j", "digits-workers-2", "2026-01-01T10:02:00Z"))
    kubernetes.start()
    assert "digits-workers-2" in process.stdout.readline()
    process.send_signal(2)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    assert out == "", "nothing comes twice"
    assert "the cluster does not answer" in err


def test_an_outage_while_it_is_looked_whose_an_event_is(kubernetes, fedkube, told):
    process = fedkube.begin("events", "digits", "--stream")
    for _ in range(3):
        process.stdout.readline()
    while not kubernetes.asked("GET", "watch=true"):
        time.sleep(0.02)
    refused = []

    def refuse(method, path):
        if "/federatedruns" in path and not refused:
            refused.append(path)
            return 503, status(503, "not now")
        return None

    kubernetes.refusals.append(refuse)
    kubernetes.put("events", an_event("h", "digits-workers-1", "2026-01-01T10:01:00Z"))
    assert "digits-workers-1" in process.stdout.readline()
    process.send_signal(2)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, len(refused)) == (0, "", 1), err
    assert "503: not now" in err
