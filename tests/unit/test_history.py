from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from fedkube.store.history import Failure, Phase, Round, from_json, to_csv, to_json


@pytest.fixture
def rounds():
    train = Phase(
        "train",
        asked=3,
        clients=[0, 2],
        failures=[Failure(1, 'it raised, and said: "x"\nthere')],
        metrics={"loss": 0.5, "steps": 7, "grid": [1.0, 2.0]},
        seconds=1.25,
        bytes_up=10,
        bytes_down=20,
    )
    return [
        Round(0, server={"accuracy": 0.1}),
        Round(1, 2.5, {"train": train}, {"accuracy": 0.9}),
        Round(2, 0.5, {"evaluate": Phase("evaluate.fast", metrics={"loss": 0.25})}),
    ]


def rows(rounds):
    return list(csv.DictReader(io.StringIO(to_csv(rounds).decode())))


def test_json_comes_back(rounds):
    assert from_json(to_json("run-1", rounds)) == rounds
    assert json.loads(to_json("run-1", rounds))["run_id"] == "run-1"


def test_no_rounds_come_back():
    assert from_json(to_json("run-1", [])) == []


def test_numpys_numbers_can_be_written():
    (came,) = from_json(to_json("r", [Round(1, server={"a": np.float32(0.5)})]))
    assert came.server == {"a": 0.5}


def test_flat_metrics_are_scalars_by_dotted_name(rounds):
    assert rounds[1].flat_metrics() == {"train.loss": 0.5, "train.steps": 7, "server.accuracy": 0.9}


def test_csv_has_a_line_for_each_round_and_the_same_columns(rounds):
    lines = rows(rounds)
    assert [line["round"] for line in lines] == ["0", "1", "2"]
    assert lines[1] == {
        "round": "1",
        "seconds": "2.500000",
        "evaluate.bytes_down": "",
        "evaluate.bytes_up": "",
        "evaluate.clients": "",
        "evaluate.failures": "",
        "evaluate.loss": "",
        "evaluate.seconds": "",
        "server.accuracy": "0.9",
        "train.bytes_down": "20",
        "train.bytes_up": "10",
        "train.clients": "2",
        "train.failures": "1",
        "train.loss": "0.5",
        "train.seconds": "1.250000",
        "train.steps": "7.0",
    }
    assert "train.grid" not in lines[1]


def test_csv_keeps_a_metric_whose_name_has_commas_and_quotes():
    name = 'a,"b"'
    (line,) = rows([Round(1, server={name: 1})])
    assert line[f"server.{name}"] == "1.0"


def test_csv_of_no_rounds_is_a_heading():
    assert to_csv([]) == b"round,seconds\n"
