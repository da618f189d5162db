"""The other commands, and how output looks with and without a terminal."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

FEDKUBE = str(Path(sys.executable).parent / "fedkube")


def test_new_writes_an_app_that_runs_at_once(fedkube, tmp_path):
    done = fedkube("new", "my-first-app")
    assert done.returncode == 0, done.stderr
    assert "fedkube run my-first-app" in done.stdout
    ran = fedkube("run", "my-first-app", "--json", "--seed", "1")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["metrics"]["evaluate.eval_loss"] < 0.05


@pytest.mark.parametrize("name", ["9lives", "class", "!!!", ""])
def test_new_refuses_names_that_are_no_package(fedkube, name):
    done = fedkube("new", name)
    assert done.returncode == 2
    assert "no name for a Python package" in done.stderr


def test_new_does_not_write_over_anything(fedkube, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = fedkube("new", "mine")
    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_doctor_says_what_is_there_and_what_it_is_for(fedkube, tmp_path):
    found = {each["what"]: each for each in json.loads(fedkube("doctor", "--json").stdout)}
    assert found["flwr"]["found"].startswith("1.41")
    assert found["torch"]["ok"] is True
    assert found["Kubernetes context"]["needed_for"] == "running on a cluster"
    config = tmp_path / "kubeconfig"
    config.write_text("current-context: my-cluster\n")
    table = fedkube("doctor", KUBECONFIG=str(config))
    assert table.returncode == 0
    assert "my-cluster" in table.stdout


def test_help_names_every_verb_and_exit_code(fedkube):
    text = fedkube("--help").stdout
    for word in ("run", "new", "doctor", "130"):
        assert word in text
    assert "--client-timeout" in fedkube("run", "--help", COLUMNS="160").stdout


def test_version(fedkube):
    assert fedkube("--version").stdout.startswith("fedkube 0.")


def test_with_json_stdout_is_one_line(run, apps):
    ran = run(apps / "message_api", "--clients", "2", "--json")
    assert len(ran.stdout.splitlines()) == 1
    assert "round 4/4" in ran.stderr


def test_a_reader_that_has_enough_does_not_stop_the_run(apps, tmp_path):
    out = tmp_path / "run"
    done = subprocess.run(
        f"{FEDKUBE} run {apps / 'message_api'} --clients 2 --out {out} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert json.loads((out / "run.json").read_text())["state"] == "Succeeded"


def test_without_progress_only_the_apps_lines_are_left(run, apps):
    ran = run(apps / "message_api", "--clients", "2", "--no-progress")
    assert "round 4/4" not in ran.stdout
    assert "[ROUND 4/4]" in ran.stdout


def test_in_a_terminal_the_progress_moves_and_the_log_stays_readable(apps, tmp_path):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [FEDKUBE, "run", str(apps / "misbehave"), "--clients", "3", "-c", "sleep=0.4"],
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"},
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:
        pass
    os.close(ours)
    assert process.wait(timeout=30) == 0
    text = seen.decode()
    assert "clients" in text
    assert "running on 2 workers" in text
    assert "round 3/3" in text
    assert "[ROUND 3/3]" in text
    assert "Succeeded" in text


def test_a_command_for_a_cluster_says_that_there_is_none(fedkube):
    done = fedkube("ls", KUBECONFIG="/nowhere/config")
    assert done.returncode == 5
    assert "no cluster to talk to" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_that_does_not_answer_is_told_as_such(fedkube, tmp_path):
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "a", "user": {}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    done = fedkube("ls", KUBECONFIG=str(tmp_path / "config"))
    assert done.returncode == 5
    assert "nobody answers at https://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_app_is_looked_at_before_the_cluster_is(fedkube, examples):
    done = fedkube("submit", str(examples / "digits"), "-c", "rounds=3", KUBECONFIG="/nowhere")
    assert done.returncode == 2
    assert "no run config key 'rounds'" in done.stderr
    done = fedkube("submit", "/nowhere", KUBECONFIG="/nowhere")
    assert done.returncode == 3
