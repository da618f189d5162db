from __future__ import annotations

import pytest

from fedkube.cli import run
from fedkube.core.errors import Exit, Usage
from fedkube.core.run_states import RunState
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
