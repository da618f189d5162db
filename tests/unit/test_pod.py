"""A server in a pod: what it begins with, and its last words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fedkube_server.pod import main as pod

from fedkube.api.v1alpha1 import Pool, RunSpec
from fedkube.core.errors import Usage
from fedkube.core.run_states import RunState
from fedkube.store.run_folder import RunFolder, RunRecord

EXAMPLES = Path(__file__).parents[2] / "examples"


def orders(app: str, **config: float) -> bytes:
    spec = RunSpec(app=app, run_config=config, pool=Pool(clients=2), seed=1)
    record = RunRecord(run_id="r", app="", spec=spec, versions={}, created_at=datetime.now(UTC))
    return record.model_dump_json(by_alias=True).encode()


def test_the_apps_own_config_is_what_overrides_go_on_top_of(tmp_path: Path) -> None:
    written = orders(str(EXAMPLES / "digits"), **{"num-server-rounds": 3, "learning-rate": 1})
    record = pod.begin(tmp_path / "run", written)
    assert record.app == "digits"
    assert record.spec.run_config["num-server-rounds"] == 3
    assert record.spec.run_config["local-epochs"] == 2
    rate = record.spec.run_config["learning-rate"]
    assert (rate, type(rate)) == (1.0, float), "Kubernetes has made 1 of 1.0"
    assert RunFolder(tmp_path / "run").read_record().state is RunState.PENDING


@pytest.mark.parametrize(
    ("app", "config", "reason"),
    [("/nowhere", {}, "AppInvalid"), (str(EXAMPLES / "digits"), {"rounds": 3}, "Usage")],
)
def test_an_app_that_cannot_begin_has_failed(
    tmp_path: Path, app: str, config: dict[str, float], reason: str
) -> None:
    record = pod.begin(tmp_path / "run", orders(app, **config))
    assert (record.state, record.reason) == (RunState.FAILED, reason)
    assert RunFolder(tmp_path / "run").read_record().state is RunState.FAILED


def test_an_unfinished_life_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    written = orders(str(EXAMPLES / "digits"))
    record = pod.begin(tmp_path / "run", written)
    record.state = RunState.RUNNING
    folder = RunFolder(tmp_path / "run")
    folder.write_record(record)
    (folder.path / "history.json").write_text("{}")
    (folder.path / "checkpoints" / "round-000001.safetensors").write_bytes(b"")
    assert pod.begin(tmp_path / "run", written).state is RunState.PENDING
    assert (folder.read_history(), folder.checkpoints()) == ([], [])


@pytest.mark.parametrize("banned", [["north"], []])
def test_who_was_banned_in_an_unfinished_life_is_in_the_next(
    tmp_path: Path, banned: list[str]
) -> None:
    """The orders say what was so when the run was made."""
    told = json.loads(orders(str(EXAMPLES / "digits")))
    told["banned"] = ["south"]
    written = json.dumps(told).encode()
    record = pod.begin(tmp_path / "run", written)
    assert record.banned == ["south"]
    record.state, record.banned = RunState.RUNNING, banned
    RunFolder(tmp_path / "run").write_record(record)
    assert pod.begin(tmp_path / "run", written).banned == banned


def test_an_unfinished_life_with_a_journal_is_gone_on_with(tmp_path: Path) -> None:
    written = orders(str(EXAMPLES / "digits"))
    record = pod.begin(tmp_path / "run", written)
    record.state, record.duration_s = RunState.RUNNING, 7.0
    folder = RunFolder(tmp_path / "run")
    folder.write_record(record)
    (folder.path / "history.json").write_text('{"run_id": "r", "rounds": []}')
    journal = folder.journal(record)
    with pytest.raises(Usage, match="another process has"):
        pod.begin(tmp_path / "run", written)
    assert folder.read_record().state is RunState.RUNNING, "nothing was touched"
    journal.close()
    record = pod.begin(tmp_path / "run", written)
    assert (record.state, record.duration_s) == (RunState.PENDING, 7.0)
    assert (folder.path / "history.json").exists()


def test_a_run_that_had_ended_stays_as_it_ended(tmp_path: Path) -> None:
    written = orders(str(EXAMPLES / "digits"))
    record = pod.begin(tmp_path / "run", written)
    record.state, record.message = RunState.SUCCEEDED, "the ServerApp returned"
    RunFolder(tmp_path / "run").write_record(record)
    again = pod.begin(tmp_path / "run", written)
    assert (again.state, again.message) == (RunState.SUCCEEDED, "the ServerApp returned")


def test_last_words_fit_whatever_there_is_to_say(tmp_path: Path) -> None:
    record = pod.begin(tmp_path / "run", orders(str(EXAMPLES / "digits")))
    record.state = RunState.FAILED
    record.message, record.details = "é" * 10_000, "x" * 10_000 + "the last line"
    words = json.loads(pod.last_words(record))
    assert words["state"] == "Failed"
    record.metrics = {f"metric-{number}": 0.5 for number in range(1000)}
    said = pod.last_words(record)
    assert len(said) <= 4096
    assert json.loads(said)["state"] == "Failed"
