from __future__ import annotations

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from fedkube.store.history import Failure, Phase, Round, from_json, to_csv, to_json

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


@given(st.lists(ROUNDS, max_size=4))
def test_json_comes_back(rounds):
    assert from_json(to_json("run", rounds)) == rounds


@given(st.lists(ROUNDS, min_size=1, max_size=4, unique_by=lambda each: each.round), st.data())
def test_what_was_made_of_rounds_before_changes_nothing(rounds, data):
    lines = {}
    to_json("run", rounds, lines)
    changed, other = data.draw(st.sampled_from(rounds)), data.draw(ROUNDS)
    match data.draw(st.integers(0, 3)):
        case 0:
            changed.server, changed.seconds = other.server, other.seconds
        case 1:
            for phase in changed.phases.values():
                phase.clients.append(data.draw(COUNTS))
        case 2:
            for phase in changed.phases.values():
                phase.failures.append(Failure(1, "late"))
                phase.metrics = other.server
        case 3:
            changed.phases = {}
    assert to_json("run", rounds, lines) == to_json("run", rounds)


@given(st.lists(ROUNDS_WITH_ANY_NUMBER, max_size=3))
def test_it_is_json_that_every_reader_takes(rounds):
    def no_such_number(word):
        raise AssertionError(f"{word} is no JSON")

    json.loads(to_json("run", rounds), parse_constant=no_such_number)


@given(st.lists(ROUNDS, min_size=1, max_size=4))
def test_csv_holds_every_scalar_metric(rounds):
    lines = list(csv.DictReader(io.StringIO(to_csv(rounds).decode(), newline="")))
    assert len(lines) == len(rounds)
    for line, entry in zip(lines, rounds, strict=True):
        assert int(line["round"]) == entry.round
        for name, value in entry.flat_metrics().items():
            assert float(line[name]) == value
