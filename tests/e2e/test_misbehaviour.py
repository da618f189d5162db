"""Clients that break: the others' work counts, the failure has a reason, and nothing hangs."""

import math
from pathlib import Path

import pytest


def processes_in(environment: bytes) -> list[str]:
    """Command lines of running processes that were started with this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if environment in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture
def misbehave(run, apps):
    def with_mode(mode: str, *options: str, config: str = "", clients: int = 4, **more):
        # Two, so that one client does not hold up all others.
        workers = () if "--workers" in options else ("--workers", "2")
        return run(
            apps / "misbehave", "--clients", str(clients), *workers, *options,
            "-c", f'mode="{mode}" {config}', **more,
        )  # fmt: skip

    return with_mode


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("raise", "deliberate failure of the ClientApp"),
        ("system-exit", "SystemExit"),
        ("keyboard-interrupt", "KeyboardInterrupt"),
        ("recursion", "RecursionError"),
        ("memory", "MemoryError"),
        ("exit", "ended by itself, with exit code 3"),
        ("segv", "crashed (SIGSEGV)"),
        ("none", "must return a Message, and returned NoneType"),
        ("not-a-message", "must return a Message"),
        ("nan", "NaN or infinity"),
        ("inf", "NaN or infinity"),
        ("shape", "has shape"),
        ("names", "its arrays are not those that were sent"),
        ("no-arrays", "0 array records"),
        ("extra-arrays", "2 array records"),
        ("no-weight", "its metrics lack 'num-examples'"),
        ("no-metrics", "its metrics lack 'num-examples'"),
        ("zero-weight", "must be above zero"),
        ("negative-weight", "must be above zero"),
        ("nan-weight", "must be above zero"),
        ("list-weight", "must be one number"),
        ("object-array", "cannot be sent"),
        ("strings", "element type"),
        ("garbage", "its bytes are not"),
        ("unknown-stype", "cannot be averaged"),
        ("not-a-reply", "it answers another message"),
        ("error-reply", "deliberate failure of the ClientApp"),
    ],
)
def test_one_client_fails_and_the_run_goes_on(misbehave, mode, reason):
    ran = misbehave(mode)
    assert ran.code == 0, ran.text
    [(round_number, client, why)] = ran.failures()
    assert (round_number, client) == (1, 0)
    assert reason in why
    assert ran.result["final-mean"] == 3.0
    assert [len(each.phases["train"].clients) for each in ran.rounds] == [3, 4, 4]


@pytest.mark.parametrize("mode", ["ok", "dtype", "flood", "false-header"])
def test_what_is_odd_but_right_counts(misbehave, mode):
    ran = misbehave(mode)
    assert ran.code == 0, ran.text
    assert ran.failures() == []
    assert ran.result["final-mean"] == 3.0


def test_a_client_that_hangs_is_ended_at_its_timeout(misbehave):
    ran = misbehave("hang", "--client-timeout", "5")
    assert ran.code == 0, ran.text
    [(_, client, why)] = ran.failures()
    assert client == 0
    assert "longer than its timeout of 5 s" in why
    assert ran.result["final-mean"] == 3.0


def test_a_client_that_leaves_a_hanging_child_is_ended_with_it(misbehave, monkeypatch, tmp_path):
    monkeypatch.setenv("STARTED_BY", str(tmp_path))
    ran = misbehave("fork", "--client-timeout", "5")
    assert ran.code == 0, ran.text
    [(_, client, why)] = ran.failures()
    assert client == 0
    assert "longer than its timeout" in why
    assert ran.record.duration_s < 60
    assert not processes_in(f"STARTED_BY={tmp_path}".encode())


def test_metrics_that_are_no_numbers_are_null_in_json(misbehave):
    ran = misbehave("nan-metric", "--json", config="culprit=-1 at-round=0")
    assert ran.code == 0, ran.text
    assert ran.json["metrics"]["train.loss"] is None
    assert math.isnan(ran.record.metrics["train.loss"])
    assert math.isnan(ran.rounds[-1].phases["train"].metrics["loss"])


def test_a_client_that_spins_is_cut_off_at_the_rounds_timeout(misbehave):
    ran = misbehave("spin", config="round-timeout=15.0")
    assert ran.code == 0, ran.text
    [(_, client, why)] = ran.failures()
    assert client == 0
    assert "within the round's timeout of 15 s" in why
    assert ran.result["replies"] == [3, 4, 4]


def test_a_client_killed_for_memory_is_tried_again_then_given_up(misbehave):
    ran = misbehave("sigkill")
    assert ran.code == 0, ran.text
    [(_, client, why)] = ran.failures()
    assert client == 0
    assert "SIGKILL" in why
    assert "given up after 3 tries" in why


def test_when_all_clients_fail_the_run_fails_and_shows_the_apps_traceback(misbehave):
    ran = misbehave("raise", config="culprit=-1 at-round=0")
    assert ran.code == 4
    assert ran.record.state == "Failed"
    assert "deliberate failure of the ClientApp" in ran.text
    assert "misbehave_app" in ran.record.details
    assert "fedkube_client" not in ran.record.details


def test_a_client_module_that_does_not_import(run, apps):
    ran = run(apps / "import_error")
    assert ran.code == 3
    assert "import a_package_that_does_not_exist" in ran.text
    assert "ModuleNotFoundError" in ran.record.message
    assert "/fedkube_client/" not in ran.text
    assert "/importlib/" not in ran.record.details


def test_a_server_module_that_does_not_import(run, apps):
    ran = run(apps / "server_import_error")
    assert ran.code == 3
    assert "import a_package_that_does_not_exist" in ran.text
    assert "/fedkube_server/" not in ran.text


def test_a_server_app_that_raises(run, apps):
    ran = run(apps / "server_raises", "--json")
    assert ran.code == 4
    assert ran.json["state"] == "Failed"
    assert "deliberate failure of the ServerApp after round 1" in ran.json["message"]
    assert (ran.folder / "model.safetensors").exists(), "what was reached is kept"
    assert "/fedkube_server/" not in ran.record.details
