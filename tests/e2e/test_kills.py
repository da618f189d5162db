"""Processes killed in the middle of a run."""

import contextlib
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

SLOW = ("-c", "sleep=0.6 num-server-rounds=2")


@pytest.fixture
def slow(begin, apps):
    """Six clients of 0.6 s each, seen when each worker is serving one in the first round."""

    def start(*options, workers="2"):
        running = begin(
            apps / "misbehave", "--clients", "6", "--workers", workers, "--json", *SLOW, *options
        )
        for number in range(int(workers)):
            running.await_line(f"worker-{number}  client ")
        return running

    return start


def counted_once(ran):
    return all(
        set(Counter(each.phases["train"].clients).values()) == {1}
        and len(each.phases["train"].clients) == 6
        for each in ran.rounds
    )


def test_a_worker_killed_in_the_middle_of_a_round(slow, ends):
    running = slow()
    [victim] = running.pids("--name worker-0")
    executors = running.pids("executor_main")
    os.kill(victim, signal.SIGKILL)
    ran = running.wait()
    assert ran.code == 0, ran.text
    assert counted_once(ran)
    assert ran.failures() == []
    assert ran.result["final-mean"] == 2.0
    assert "worker-0 was killed (SIGKILL); starting it again" in ran.log
    assert ends(executors, 5)


def test_the_only_worker_killed(slow):
    running = slow(workers="1")
    os.kill(running.pids("--name worker-0")[0], signal.SIGKILL)
    ran = running.wait()
    assert ran.code == 0, ran.text
    assert counted_once(ran)


def test_a_worker_that_is_told_to_end_is_started_again(slow):
    running = slow(workers="1")
    os.kill(running.pids("--name worker-0")[0], signal.SIGTERM)
    ran = running.wait()
    assert ran.code == 0, ran.text
    assert counted_once(ran)


def test_a_worker_that_stops_answering_is_given_up(slow):
    running = slow()
    [victim] = running.pids("--name worker-0")
    os.kill(victim, signal.SIGSTOP)
    try:
        ran = running.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    assert ran.code == 0, ran.text
    assert counted_once(ran)
    assert ran.record.duration_s < 70


def test_an_executor_killed_in_the_middle_of_a_round(slow):
    running = slow()
    os.kill(running.pids("executor_main")[0], signal.SIGKILL)
    ran = running.wait()
    assert ran.code == 0, ran.text
    assert counted_once(ran)


def test_a_server_killed_in_the_middle_of_a_round(slow, ends):
    running = slow()
    workers = running.pids("fedkube_client")
    [server] = running.pids("fedkube_server")
    os.kill(server, signal.SIGKILL)
    ran = running.wait()
    assert ran.code == 0, ran.text
    assert counted_once(ran)
    assert ran.failures() == []
    assert ran.result["final-mean"] == 2.0
    assert "server was killed (SIGKILL); it goes on from what it has committed" in ran.log
    assert "worker-0 ended" not in ran.log, "the workers have outlived it"
    assert ends(workers, 5)


def test_a_server_that_is_killed_again_and_again_fails_the_run(slow, monkeypatch, ends):
    monkeypatch.setenv("FEDKUBE_FAILPOINT", "journal.begun:1")
    running = slow()
    family = list(running.family())
    ran = running.wait()
    assert ran.code == 4, ran.text
    assert ran.record.state == "Failed"
    assert "the aggregation server was killed (SIGKILL)" in ran.json["message"]
    assert ran.log.count("it goes on from what it has committed") == 5
    assert ends(family, 5)


def test_a_killed_launcher_leaves_no_process(slow, ends):
    running = slow()
    family = list(running.family())
    assert len(family) == 6, "launcher, server, two workers with an executor each"
    running.process.kill()
    assert ends(family, 10)
    ran = running.wait()
    assert ran.record.state == "Failed"
    assert "launcher" in ran.record.message


def test_no_key_is_in_a_file_a_command_line_or_an_environment(slow, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    running = slow()
    family = list(running.family())
    assert len(family) == 6
    shown = [Path(f"/proc/{pid}/{what}") for pid in family for what in ("cmdline", "environ")]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert running.folder / "run.json" in written
    assert not [path for path in shown + written if b"PRIVATE KEY" in path.read_bytes()]
    assert running.wait().code == 0
