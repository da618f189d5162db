from __future__ import annotations

import csv
import io
import json
import tracemalloc

import numpy as np
import pytest

from fedkube.store.history import Failure, Phase, Round, Stale
from fedkube.store.run_folder import RunFolder


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


@pytest.fixture
def files(tmp_path):
    return RunFolder(tmp_path).histories("run-1")


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def table(folder):
    return list(csv.DictReader(io.StringIO((folder.path / "history.csv").read_text())))


def body(folder):
    return json.loads((folder.path / "history.json").read_text())


# ------------------------------------------------------------- whole


def test_what_is_written_comes_back(files, folder, rounds):
    files.begin(rounds)
    assert list(files.rounds()) == folder.read_history() == rounds
    assert body(folder)["run_id"] == "run-1"
    assert files.find(1) == rounds[1]
    assert files.find(7) is None


def test_where_nothing_is_written_there_are_no_rounds(files, folder):
    assert list(files.rounds()) == folder.read_history() == []
    assert files.find(1) is None


def test_no_rounds_come_back(files, folder):
    files.begin([])
    assert body(folder) == {"run_id": "run-1", "rounds": []}
    assert folder.read_history() == []
    assert (folder.path / "history.csv").read_text() == "round,seconds\n"


def test_numpys_numbers_can_be_written(files):
    files.begin([Round(1, server={"a": np.float32(0.5)})])
    assert files.find(1).server == {"a": 0.5}


def test_a_history_that_is_laid_out_otherwise_is_read_and_gone_on_with(files, folder, rounds):
    files.begin(rounds)
    (folder.path / "history.json").write_text(json.dumps(body(folder), indent=2))
    assert folder.read_history() == rounds
    files.put([Round(3)])
    assert folder.read_history() == [*rounds, Round(3)]


def test_flat_metrics_are_scalars_by_dotted_name(rounds):
    assert rounds[1].flat_metrics() == {"train.loss": 0.5, "train.steps": 7, "server.accuracy": 0.9}


# ------------------------------------------------------------- round by round


def test_rounds_that_are_put_in_one_by_one_make_the_same_files(files, folder, rounds, tmp_path):
    for each in rounds:
        files.put([each])
    whole = RunFolder(tmp_path / "whole")
    whole.path.mkdir()
    whole.histories("run-1").begin(rounds)
    for name in ("history.json", "history.csv"):
        assert (folder.path / name).read_bytes() == (whole.path / name).read_bytes()


@pytest.mark.parametrize(
    ("new", "numbers"),
    [([2], [0, 1, 2]), ([1, 2], [0, 1, 2]), ([0, 1], [0, 1]), ([1], [0, 1]), ([3], [0, 1, 2, 3])],
)
def test_a_round_takes_the_place_of_its_number_and_ends_what_was_later(
    files, folder, rounds, new, numbers
):
    files.begin(rounds)
    files.put([Round(number, seconds=9.0, server={"accuracy": 0.5}) for number in new])
    came = folder.read_history()
    assert [each.round for each in came] == numbers
    assert [each.round for each in came if each.seconds == 9.0] == new
    assert [int(line["round"]) for line in table(folder)] == numbers
    assert [int(line["round"]) for line in table(folder) if line["seconds"] == "9.000000"] == new


def test_a_round_that_was_missing_gets_its_place(files, folder):
    files.begin([Round(1), Round(3)])
    files.put([Round(0), Round(2), Round(4)])
    assert [each.round for each in folder.read_history()] == [0, 1, 2, 3, 4]
    assert [line["round"] for line in table(folder)] == ["0", "1", "2", "3", "4"]


def test_a_new_metric_is_a_new_column_for_all(files, folder):
    files.put([Round(1, server={"b": 1})])
    files.put([Round(2, server={"a": 2, "b": 3})])
    files.put([Round(3, server={"b": 4})])
    assert [(line["server.a"], line["server.b"]) for line in table(folder)] == [
        ("", "1.0"),
        ("2.0", "3.0"),
        ("", "4.0"),
    ]


@pytest.mark.parametrize("content", [None, "", "round,seconds\n1,0.000000\n"])
def test_a_table_that_a_kill_has_kept_back_is_mended(files, folder, rounds, content):
    files.begin(rounds)
    there = folder.path / "history.csv"
    right = there.read_bytes()
    there.unlink()
    if content is not None:
        there.write_text(content)
    RunFolder(folder.path).histories("run-1").mend()
    assert there.read_bytes() == right


def test_the_next_life_mends_the_table_with_its_first_round(files, folder, rounds):
    files.begin(rounds)
    (folder.path / "history.csv").write_text("round,seconds\n1,0.000000\n")
    RunFolder(folder.path).histories("run-1").put([Round(3)])
    assert [line["round"] for line in table(folder)] == ["0", "1", "2", "3"]
    assert table(folder)[1]["server.accuracy"] == "0.9"


def test_to_put_a_round_in_takes_the_same_memory_however_many_there_are(tmp_path):
    def most(count):
        folder = RunFolder(tmp_path / str(count))
        folder.path.mkdir(exist_ok=True)
        files = folder.histories("run-1")
        files.begin(Round(number, server={"a": float(number)}) for number in range(count))
        tracemalloc.start()
        try:
            files.put([Round(count, server={"a": 1.0})])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert len(folder.read_history()) == count + 1

    # Twice: threads of earlier tests may still be at work, and what they take is counted, too.
    few, many = (min(most(count), most(count)) for count in (1_000, 20_000))
    assert many < 2 * few, f"{few} bytes for a thousand rounds, {many} for twenty thousand"


# ------------------------------------------------------------- the table


def test_csv_has_a_line_for_each_round_and_the_same_columns(files, folder, rounds):
    files.begin(rounds)
    lines = table(folder)
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


def test_csv_says_how_many_updates_were_late_once_there_are_any(files, folder):
    files.put([Round(1, phases={"train": Phase("train")})])
    assert "train.late" not in table(folder)[0]
    late = Phase("train", stale=[Stale(0, 1), Stale(3, 2)], failures=[Failure(4, "busy", False)])
    files.put([Round(2, phases={"train": late})])
    assert [line["train.late"] for line in table(folder)] == ["", "2"]
    assert table(folder)[1]["train.failures"] == "0", "nobody waited for it"
    assert folder.read_history()[1].phases["train"].stale == [Stale(0, 1), Stale(3, 2)]


def test_csv_keeps_a_metric_whose_name_has_commas_quotes_and_line_ends(files, folder):
    name = 'a,"b"\nc'
    for number in (1, 2):
        files.put([Round(number, server={name: number})])
    assert [line[f"server.{name}"] for line in table(folder)] == ["1.0", "2.0"]
