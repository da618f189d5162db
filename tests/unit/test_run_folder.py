from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime

import numpy as np
import pytest
import safetensors.numpy

from fedkube.core.errors import Environment, Usage
from fedkube.core.run_states import RunState
from fedkube.store.run_folder import Model, RunFolder, safetensors_file
from fedkube.wire.tensors import DTYPES

ARRAYS = {"b": np.arange(3, dtype="f4"), "a": np.ones((2, 2))}


def names(folder):
    return [path.name for path in folder.checkpoints()]


# ------------------------------------------------------------- making one


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    folder = RunFolder.create(tmp_path / "a" / "b")
    assert (folder.path / "checkpoints").is_dir()


def test_a_folder_without_a_run_may_have_other_files(tmp_path):
    (tmp_path / "notes.txt").touch()
    RunFolder.create(tmp_path)


def test_a_run_is_not_overwritten(tmp_path):
    (tmp_path / "run.json").touch()
    with pytest.raises(Usage, match="holds a run already") as raised:
        RunFolder.create(tmp_path)
    assert "--out" in raised.value.hint


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Environment, match="cannot make the folder"):
        RunFolder.create(tmp_path / "file" / "run")


# ------------------------------------------------------------- run.json


def test_the_record_comes_back(folder, make_record):
    record = make_record(
        run_config={"n": 3, "lr": 1.0, "on": True, "s": "3"},
        state=RunState.SUCCEEDED,
        metrics={"train.loss": 0.1},
        ended_at=datetime(2026, 1, 2, tzinfo=UTC),
        model=Model(path="x", sha256="y"),
    )
    folder.write_record(record)
    came = folder.read_record()
    assert came == record
    assert [type(value) for value in came.spec.run_config.values()] == [int, float, bool, str]


def test_the_record_is_camel_case_where_the_user_declared_it(folder, make_record):
    folder.write_record(make_record(run_config={"a": 1}))
    text = (folder.path / "run.json").read_text()
    assert '"runConfig"' in text
    assert '"run_id"' in text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_does_not_break_the_record(folder, make_record, value):
    """A model that diverges ends with a loss of NaN, and its run must still be told of."""
    folder.write_record(make_record(metrics={"train.loss": value}))
    came = folder.read_record().metrics.get("train.loss", math.nan)
    assert came == value or math.isnan(came)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_a_run_config_may_hold_infinity(folder, make_record, value):
    """TOML has it, so `--run-config clip=inf` is taken; the server reads it from this file."""
    folder.write_record(make_record(run_config={"clip": value}))
    assert folder.read_record().spec.run_config == {"clip": value}


# ------------------------------------------------------------- arrays


def serialise(arrays):
    return b"".join(safetensors_file(arrays))


def test_a_model_is_the_file_that_the_library_makes():
    arrays = {f"{kind} ä": np.arange(3).astype(kind) for kind in DTYPES} | ARRAYS
    assert serialise(arrays) == safetensors.numpy.save(arrays)


def test_the_models_digest_is_that_of_its_file(folder):
    model = folder.write_model(ARRAYS)
    content = (folder.path / "model.safetensors").read_bytes()
    assert model.sha256 == hashlib.sha256(content).hexdigest()
    assert model.path == str(folder.path / "model.safetensors")


def test_the_models_digest_is_the_same_in_every_release():
    """Users compare the digests of runs; what they compare must not change under them."""
    digest = hashlib.sha256(serialise(ARRAYS)).hexdigest()
    assert digest == "2ad04f53032cb5cba288569726ed79206da2bd8539fac3a7b702ea3753f6772d"


def test_order_and_layout_of_the_arrays_do_not_matter():
    other = {"a": np.asfortranarray(ARRAYS["a"]), "b": ARRAYS["b"].astype(">f4")}
    assert serialise(dict(reversed(list(ARRAYS.items())))) == serialise(ARRAYS)
    assert serialise(other) == serialise(ARRAYS)


@pytest.mark.parametrize(
    "array",
    [np.array(3.5, "f4"), np.zeros((0, 3)), np.array([True]), np.arange(3, dtype="u8")],
    ids=["scalar", "empty", "bool", "unsigned"],
)
def test_arrays_keep_shape_and_type(array):
    (came,) = safetensors.numpy.load(serialise({"x": array})).values()
    assert (came.shape, came.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(came, array)


def test_no_arrays_are_a_model_too(folder):
    folder.write_model({})
    assert safetensors.numpy.load((folder.path / "model.safetensors").read_bytes()) == {}


# ------------------------------------------------------------- checkpoints


def test_the_newest_checkpoints_stay(folder):
    for number in range(1, 13):
        folder.write_checkpoint(number, ARRAYS, keep=3)
    assert names(folder) == [f"round-{n:06d}.safetensors" for n in (10, 11, 12)]


def test_all_checkpoints_stay_where_that_is_asked_for(folder):
    for number in range(1, 6):
        folder.write_checkpoint(number, ARRAYS, keep=0)
    assert len(names(folder)) == 5


def test_a_checkpoint_holds_the_arrays(folder):
    folder.write_checkpoint(1, ARRAYS, keep=1)
    (path,) = folder.checkpoints()
    came = safetensors.numpy.load(path.read_bytes())
    assert set(came) == {"a", "b"}
    np.testing.assert_array_equal(came["b"], ARRAYS["b"])


def test_a_checkpoint_that_cannot_be_written_costs_no_older_one(folder, monkeypatch):
    folder.write_checkpoint(1, ARRAYS, keep=1)

    def full(path, *content):
        raise Environment("the disk is full")

    monkeypatch.setattr("fedkube.store.atomic.write", full)
    with pytest.raises(Environment):
        folder.write_checkpoint(2, ARRAYS, keep=1)
    assert names(folder) == ["round-000001.safetensors"]


def test_other_files_among_the_checkpoints_are_left_alone(folder):
    other = folder.path / "checkpoints" / "mine.txt"
    other.touch()
    for number in (1, 2):
        folder.write_checkpoint(number, ARRAYS, keep=1)
    assert other.exists()
