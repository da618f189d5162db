from __future__ import annotations

import io
import signal
import threading
import time

import pytest
from cluster_commands import a_run, condition
from fake_kubernetes import status
from rich.console import Console

from fedkube.cli.cluster import follow, views


def later(kubernetes, *steps, pause=0.15):
    """Do things one after the other once a command watches."""

    def act():
        while not kubernetes.asked("GET", "watch=true"):
            time.sleep(0.02)
        for step in steps:
            time.sleep(pause)
            step()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(follow, "_PAUSES_S", (0.05,))


def watched(kubernetes, times):
    """It watches for so many times now: what it looked at before has been told."""

    def until():
        while kubernetes.asked("GET", "watch=true") < times:
            time.sleep(0.02)

    return until


def say(kubernetes, state="Running", **words):
    return lambda: kubernetes.change(
        "federatedruns", "digits", status=a_run(state=state, **words)["status"]
    )


ENDED = [condition("Complete", "True", "Completed", "3 rounds")]


def test_a_run_is_followed_to_its_end_by_one_watch(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run(state="Pending"))
    thread = later(
        kubernetes,
        say(kubernetes, roundOf="1/3", workers=2, round=1),
        say(kubernetes, roundOf="1/3", workers=2, round=1, bytesUp=5),
        say(kubernetes, roundOf="2/3", workers=2, etaSeconds=30, metrics={"loss": "0.5"}),
        say(kubernetes, "Succeeded", round=3, metrics={"loss": "0.25"}, conditions=ENDED),
    )
    done = fedkube("watch", "digits")
    thread.join()
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("Pending")
    assert lines[1] == "Running  round 1/3  10 clients, 2 workers", "bytes alone are no news"
    assert lines[2] == "Running  round 2/3  10 clients, 2 workers  loss 0.5  about 30.0 s to go"
    assert lines[3].startswith("Succeeded  3 rounds, 60.0 s")
    assert "loss = 0.25" in done.out
    assert "fedkube pull digits -n ml" in done.out
    assert kubernetes.asked("GET", "watch=true") == 1
    assert kubernetes.asked("GET", "federatedruns/digits") == 2, "it does not poll"


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        ("Succeeded", "Completed", 0),
        ("Failed", "NoUpdates", 4),
        ("Failed", "AppInvalid", 3),
        ("Stopped", "Stopped", 130),
    ],
)
def test_how_it_ended_is_the_exit_code(kubernetes, fedkube, state, reason, code):
    words = [condition("Complete", "False", reason, "because")]
    kubernetes.put("federatedruns", a_run(state=state, conditions=words))
    done = fedkube("watch", "digits")
    assert done.code == code
    assert ("why: because" in done.out) == (state != "Succeeded")


def test_what_the_run_waits_for_is_told_once(kubernetes, fedkube):
    waits = [condition("Ready", "False", "NoNodeFits", "no node has that GPU")]
    kubernetes.put("federatedruns", a_run(state="Pending", conditions=waits))
    thread = later(
        kubernetes,
        say(kubernetes, "Pending", conditions=waits, bytesUp=1),
        say(kubernetes, "Succeeded"),
    )
    done = fedkube("watch", "digits")
    thread.join()
    assert done.out.count("no node has that GPU") == 1


def test_one_document_at_the_end(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run())
    thread = later(kubernetes, say(kubernetes, "Succeeded"))
    done = fedkube("watch", "digits", "--format", "json")
    thread.join()
    assert done.code == 0
    assert done.json["state"] == "Succeeded"
    assert "Running" in done.err


def test_a_run_that_is_deleted_meanwhile(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run())
    thread = later(kubernetes, lambda: kubernetes.remove("federatedruns", "digits"))
    done = fedkube("watch", "digits")
    thread.join()
    assert done.code == 4
    assert "run 'digits' was deleted" in done.err


def test_an_api_server_that_is_away_for_a_while(kubernetes, fedkube, quick):
    kubernetes.put("federatedruns", a_run())
    thread = later(
        kubernetes,
        kubernetes.stop,
        say(kubernetes, roundOf="9/9"),
        kubernetes.start,
        watched(kubernetes, 2),
        say(kubernetes, "Succeeded"),
        pause=0.4,
    )
    done = fedkube("watch", "digits")
    thread.join()
    assert done.code == 0, done.err
    assert done.out.count("the cluster does not answer") == 1
    assert "the cluster answers again" in done.out
    assert "round 9/9" in done.out, "what happened meanwhile is seen"


def test_a_server_that_is_waking_up_may_refuse_for_a_while(kubernetes, fedkube, quick):
    kubernetes.put("federatedruns", a_run())
    waking = []

    def refuse(method, path):
        return (waking.pop(0), "404 page not found") if waking else None

    kubernetes.refusals.append(refuse)

    def away():
        waking.extend([503, 403, 404])
        kubernetes.stop()
        kubernetes.start()

    thread = later(kubernetes, away, say(kubernetes, "Succeeded"), pause=0.4)
    done = fedkube("watch", "digits")
    thread.join()
    assert done.code == 0, done.err
    assert waking == []


def test_a_right_that_is_taken_away_is_told(kubernetes, fedkube, quick):
    kubernetes.put("federatedruns", a_run())
    words = 'x is forbidden: User "eve" cannot watch resource "federatedruns" in API group '
    words += '"fedkube.io" in the namespace "ml"'
    kubernetes.refusals.append(
        lambda method, path: (403, status(403, words)) if "watch=true" in path else None
    )
    done = fedkube("watch", "digits")
    assert done.code == 5
    assert "you (eve) may not watch federatedruns.fedkube.io" in done.err


def test_a_version_that_the_server_has_forgotten_is_read_anew(kubernetes, fedkube, quick):
    kubernetes.put("federatedruns", a_run())
    gone = [True]

    def forget(method, path):
        if "watch=true" in path and gone:
            gone.pop()
            say(kubernetes, "Succeeded")()
            return 410, status(410, "too old resource version")
        return None

    kubernetes.refusals.append(forget)
    done = fedkube("watch", "digits")
    assert done.code == 0
    assert "does not answer" not in done.out


def test_ctrl_c_ends_the_watching_alone(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run())
    process = fedkube.begin("watch", "digits")
    assert process.stdout.readline().startswith("Running")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run digits goes on" in err
    assert "Traceback" not in err
    assert kubernetes.of("federatedruns")[0]["status"]["state"] == "Running"
    assert kubernetes.asked("PATCH", "") == kubernetes.asked("DELETE", "") == 0


def test_submit_and_watch(kubernetes, fedkube, tmp_path):
    (tmp_path / "run.json").write_text(
        '{"apiVersion": "fedkube.io/v1alpha1", "kind": "FederatedRun", '
        '"metadata": {"name": "digits"}, "spec": {"pool": {"clients": 2}}}'
    )
    kubernetes.on_create = lambda body: say(kubernetes, "Succeeded")()
    done = fedkube("submit", str(tmp_path / "run.json"), "--watch")
    assert (done.code, done.out) == (0, "digits\n"), "the rest goes to stderr"
    assert "Succeeded" in done.err


# ---------------------------------------------------------------- a terminal


def test_a_terminal_shows_bar_clients_time_and_metrics():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    view = views.view_for(console, "digits")
    assert isinstance(view, views.LiveView)
    with view:
        view.show(
            a_run(roundOf="2/4", round=2, rounds=4, workers=3, gpus=1, etaSeconds=100,
                  metrics={"loss": "0.5"})
        )  # fmt: skip
        console.print(view)
    shown = console.file.getvalue()
    for words in (
        "digits",
        "Running",
        "round 2/4",
        "10 clients, 3 workers, 1 GPU",
        "loss 0.5",
        "to go",
    ):
        assert words in shown
    assert "━" in shown


def test_a_terminal_shows_a_run_of_which_nothing_is_known():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    with views.view_for(console, "digits") as view:
        console.print(view)
    assert "before the first round" in console.file.getvalue()
