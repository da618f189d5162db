from __future__ import annotations

import json

import pytest
from cluster_commands import a_pod, a_run, an_event, condition
from fake_kubernetes import status


def test_no_runs(kubernetes, fedkube):
    done = fedkube("ls")
    assert (done.code, done.out) == (0, "")
    assert "no runs in namespace ml" in done.err
    assert fedkube("ls", "--format", "json").json == []


def test_runs_in_a_table(kubernetes, fedkube):
    run = a_run("b", roundOf="2/3", gpus=1, eta="90s")
    run["metadata"]["creationTimestamp"] = "2026-01-01T10:00:00Z"
    kubernetes.put("federatedruns", run)
    kubernetes.put("federatedruns", a_run("a-name-that-is-as-long-as-a-name-can-be"))
    lines = [line.split() for line in fedkube("ls").out.splitlines()]
    assert lines[0] == ["NAME", "STATE", "ROUND", "CLIENTS", "GPUS", "ETA", "AGE"]
    assert lines[1][:6] == ["b", "Running", "2/3", "10", "1", "90s"]
    assert lines[1][6].endswith("d")
    assert lines[2][0] == "a-name-that-is-as-long-as-a-name-can-be", "the newest last"
    assert lines[2][-1].endswith("s")


def test_all_namespaces(kubernetes, fedkube):
    for space in ("ml", "lab"):
        kubernetes.put("federatedruns", a_run("same", space=space))
    lines = [line.split()[:2] for line in fedkube("ls", "-A").out.splitlines()]
    assert lines == [["NAMESPACE", "NAME"], ["lab", "same"], ["ml", "same"]]
    told = fedkube("ls", "-A", "--format", "json").json
    assert [each["namespace"] for each in told] == ["lab", "ml"]
    assert fedkube("ls", "-A", "-n", "ml").code == 2


def test_a_run_that_the_coordinator_has_not_seen(kubernetes, fedkube):
    run = a_run()
    del run["status"]
    kubernetes.put("federatedruns", run)
    assert fedkube("ls").out.splitlines()[1].split()[:3] == ["digits", "Queued", "10"]
    assert fedkube("get", "digits", "--json").json["state"] == "Queued"


def test_a_status_of_a_newer_version_is_read(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run(devices=3))
    assert fedkube("get", "digits").code == 0


@pytest.fixture
def filled(kubernetes):
    model = {"claim": "digits-run", "path": "digits-1/model.safetensors", "sha256": "ab" * 32}
    kubernetes.put(
        "federatedruns",
        a_run(
            state="Failed",
            conditions=[condition("Complete", "False", "AppRaised", "no data")],
            metrics={"train.loss": "0.5"},
            model=model,
            workers=2,
        ),
    )
    kubernetes.put("pods", a_pod("digits-server-x", phase="Succeeded"))
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    container = {"name": "worker", "restartCount": 2, "image": "i:1", "state": {"waiting": waiting}}
    kubernetes.put(
        "pods",
        a_pod("digits-workers-y", "worker", "digits", "Pending", containerStatuses=[container]),
    )
    kubernetes.put("pods", a_pod("digits-pull-z", "reader"))
    for second in range(7):
        event = an_event(f"e{second}", "digits-server-x", f"2026-01-01T10:00:0{second}Z")
        kubernetes.put("events", event | {"message": f"word{second}"})


def test_all_of_a_run_in_words(kubernetes, fedkube, filled):
    out = fedkube("get", "digits").out
    for words in (
        "Complete False (AppRaised): no data",
        "train.loss = 0.5",
        "ab" * 32,
        "ImagePullBackOff",
        "word6",
        "10 clients",
        "next: fedkube logs digits -n ml",
    ):
        assert words in out
    assert "digits-pull-z" not in out, "what only reads the disk is not the run's"
    assert "word1" not in out, "the newest five alone"


@pytest.mark.parametrize("words", [("--format", "json"), ("--json",)])
def test_all_of_a_run_as_one_document(kubernetes, fedkube, filled, words):
    done = fedkube("get", "digits", *words)
    told = json.loads(done.out)
    assert (told["name"], told["namespace"], told["state"]) == ("digits", "ml", "Failed")
    assert told["conditions"][0]["reason"] == "AppRaised"
    assert [(pod["role"], pod["state"], pod["restarts"]) for pod in told["pods"]] == [
        ("server", "Succeeded", 0),
        ("worker", "ImagePullBackOff", 2),
    ]
    assert [event["message"] for event in told["events"]] == [f"word{n}" for n in range(2, 7)]


def test_who_may_see_the_run_alone_sees_that(kubernetes, fedkube, filled):
    def refuse(method, path):
        return (403, status(403, "pods is forbidden")) if "/api/v1/" in path else None

    kubernetes.refusals.append(refuse)
    done = fedkube("get", "digits", "--format", "json")
    assert done.code == 0
    assert (done.json["pods"], done.json["events"]) == ([], [])
    assert "left out: pods is forbidden" in done.err


# ---------------------------------------------------------------- stop, resume, delete


def test_stop_and_resume(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run())
    assert fedkube("stop", "digits").code == 0
    assert kubernetes.of("federatedruns")[0]["spec"]["suspend"] is True
    assert fedkube("resume", "digits").code == 0
    assert kubernetes.of("federatedruns")[0]["spec"]["suspend"] is False


def test_resume_says_to_a_script_how_the_run_is(kubernetes, fedkube):
    kubernetes.put("federatedruns", a_run(state="Suspended"))
    done = fedkube("resume", "digits", "--json")
    assert (done.code, done.json["name"], done.json["state"]) == (0, "digits", "Suspended")
    assert "gets its workers back" in done.err


@pytest.mark.parametrize("verb", ["stop", "resume"])
def test_what_is_over_is_not_stopped(kubernetes, fedkube, verb):
    kubernetes.put("federatedruns", a_run(state="Succeeded"))
    done = fedkube(verb, "digits")
    assert done.code == 2
    assert "is Succeeded" in done.err


def test_delete_says_what_stays(kubernetes, fedkube):
    run = a_run()
    run["spec"]["server"] = {"storage": {"keep": True}}
    kubernetes.put("federatedruns", run)
    done = fedkube("delete", "digits")
    assert done.code == 0
    assert "claim digits-run, is kept" in done.err
    assert kubernetes.of("federatedruns") == []
