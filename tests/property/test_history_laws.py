from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fedkube.store.histories import Histories
from fedkube.store.history import Failure, Phase, Round, Stale

# Python's csv does not quote a lone carriage return, and no metric is called that.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=10)
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
METRICS = st.dictionaries(TEXTS, NUMBERS | st.lists(NUMBERS, max_size=3), max_size=3)
COUNTS = st.integers(0, 2**40)
SECONDS = st.floats(0, 1e6)
PHASES = st.builds(
    Phase,
    message_type=TEXTS,
    asked=COUNTS,
    clients=st.lists(COUNTS, max_size=3),
    failures=st.lists(st.builds(Failure, client=COUNTS, reason=TEXTS), max_size=2),
    metrics=METRICS,
    seconds=SECONDS,
    bytes_up=COUNTS,
    bytes_down=COUNTS,
    stale=st.lists(st.builds(Stale, client=COUNTS, rounds=COUNTS), max_size=2),
)
ROUNDS = st.builds(
    Round,
    round=COUNTS,
    seconds=SECONDS,
    phases=st.dictionaries(st.sampled_from(["train", "evaluate", "query"]), PHASES, max_size=3),
    server=METRICS,
)


ROUNDS_WITH_ANY_NUMBER = st.builds(
    Round, round=COUNTS, server=st.dictionaries(TEXTS, st.floats() | st.lists(st.floats()))
)


class Files(dict):
    """Files in memory, by name, and their histories."""

    def __init__(self):
        self.histories = Histories("run", self._lines, self._replace)

    def _lines(self, name):
        return self.get(name, b"").splitlines(keepends=True)

    def _replace(self, name, parts):
        self[name] = b"".join(parts)


def written(rounds):
    files = Files()
    files.histories.begin(rounds)
    return files


@given(st.lists(ROUNDS, max_size=4))
def test_json_comes_back(rounds):
    assert list(written(rounds).histories.rounds()) == rounds


FEW = st.builds(lambda each, number: replace(each, round=number), ROUNDS, st.integers(0, 5))


@given(st.lists(st.tuples(st.lists(FEW, min_size=1, max_size=3), st.booleans()), max_size=4))
def test_rounds_put_in_one_after_the_other_make_the_same_files_as_all_at_once(steps):
    files, model = Files(), {}
    for rounds, another_life in steps:
        if another_life:
            files.histories = Histories("run", files._lines, files._replace)
        new = {each.round: each for each in rounds}
        last = max(new)
        model = {number: each for number, each in model.items() if number < last} | new
        files.histories.put(list(new.values()))
    whole = written([model[number] for number in sorted(model)])
    if model:
        assert files["history.json"] == whole["history.json"]
        assert rows(files) == rows(whole)


@given(st.lists(ROUNDS_WITH_ANY_NUMBER, max_size=3))
def test_it_is_json_that_every_reader_takes(rounds):
    def no_such_number(word):
        raise AssertionError(f"{word} is no JSON")

    json.loads(written(rounds)["history.json"], parse_constant=no_such_number)


@given(st.lists(ROUNDS, min_size=1, max_size=4))
def test_csv_holds_every_scalar_metric(rounds):
    lines = table(written(rounds))
    assert len(lines) == len(rounds)
    for line, entry in zip(lines, rounds, strict=True):
        assert int(line["round"]) == entry.round
        for name, value in entry.flat_metrics().items():
            assert float(line[name]) == value


def table(files):
    return list(csv.DictReader(io.StringIO(files["history.csv"].decode(), newline="")))


def rows(files):
    """By round, what the table says; of columns that are empty in all rounds nothing."""
    return [{name: value for name, value in row.items() if value} for row in table(files)]
