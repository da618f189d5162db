from __future__ import annotations

import pytest
import typer

from fedkube.cli import run
from fedkube.core.errors import Exit, Usage
from fedkube.core.run_states import RunState
from fedkube.planner import machine
from fedkube.store.run_folder import Model

APP = """
[project]
name = "a"
[tool.flwr.app.components]
serverapp = "a:b"
clientapp = "a:b"
[tool.flwr.app.config]
lr = 0.1
"""


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        (RunState.SUCCEEDED, "Completed", Exit.OK),
        (RunState.STOPPED, "Stopped", Exit.STOPPED),
        (RunState.STOPPED, "AppInvalid", Exit.STOPPED),
        (RunState.FAILED, "AppInvalid", Exit.APP_INVALID),
        (RunState.FAILED, "Environment", Exit.ENVIRONMENT),
        (RunState.FAILED, "Usage", Exit.USAGE),
        (RunState.FAILED, "NoUpdates", Exit.RUN_FAILED),
        (RunState.FAILED, "", Exit.RUN_FAILED),
    ],
)
def test_how_a_run_ended_is_its_exit_code(make_record, state, reason, code):
    assert run.exit_code(make_record(state=state, reason=reason)) is code


@pytest.mark.parametrize(("asked", "workers", "relays"), [(0, 3, 0), (2, 3, 2), (2, 1, 1)])
def test_a_run_that_goes_on_has_its_relays_as_far_as_there_are_workers(
    make_record, folder, monkeypatch, asked, workers, relays
):
    launched = []

    class Launcher:
        def __init__(self, folder, plan, view, relays):
            launched.append(relays)

        async def run(self):
            return make_record(state=RunState.SUCCEEDED)

    monkeypatch.setattr(run, "Launcher", Launcher)
    plan = machine.plan(machine.Machine(4, 2**34), 8, workers)
    with pytest.raises(typer.Exit):
        run.see_through(folder, make_record(relays=asked), plan, False, False)
    assert launched == [relays]


def test_the_result_of_a_good_run_has_no_reason(make_record, tmp_path):
    record = make_record(
        state=RunState.SUCCEEDED,
        model=Model(path="m", sha256="d"),
        metrics={"train.loss": 0.5},
        duration_s=1.23456,
    )
    result = run.result(record, tmp_path)
    assert result["state"] == "Succeeded"
    assert result["model"] == {"path": "m", "sha256": "d"}
    assert result["metrics"] == {"train.loss": 0.5}
    assert result["duration_s"] == 1.235
    assert result["out"] == str(tmp_path)
    assert not {"reason", "message"} & set(result)


def test_the_result_of_a_bad_run_says_why(make_record, tmp_path):
    record = make_record(state=RunState.FAILED, reason="NoUpdates", message="all failed")
    result = run.result(record, tmp_path)
    assert (result["reason"], result["message"]) == ("NoUpdates", "all failed")
    assert result["model"] is None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("client_timeout", 0.0),
        ("client_timeout", -1.0),
        ("client_timeout", float("nan")),
        ("client_timeout", float("inf")),
        ("port", -1),
        ("port", 65536),
        ("seed", -1),
        ("seed", 2**63),
        ("checkpoint_every", -1),
        ("keep_checkpoints", -1),
        ("clients", 0),
        ("workers", 0),
        ("threads", 0),
    ],
)
def test_an_option_out_of_range_is_named_and_nothing_is_made(write_app, tmp_path, option, value):
    out = tmp_path / "out"
    with pytest.raises(Usage, match=f"--{option.replace('_', '-')} is "):
        run.run(str(write_app(APP)), out=out, **{option: value})
    assert not out.exists()


def test_a_run_config_key_that_the_app_lacks_is_refused_before_anything_is_made(
    write_app, tmp_path
):
    out = tmp_path / "out"
    with pytest.raises(Usage, match="no run config key 'rl'"):
        run.run(str(write_app(APP)), run_config=["rl=1"], out=out)
    assert not out.exists()


def test_versions_are_written_down():
    assert {"fedkube", "python", "flwr", "numpy", "platform"} <= set(run.versions())
