"""The table of docs/reliability.md: it has every fault, and the tests that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"


def rows() -> list[list[str]]:
    found = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    return [[number, *rest.split(" | ")] for number, rest in found]


def test_each_of_the_faults_is_there_once():
    assert [int(number) for number, *_ in rows()] == list(range(1, 32))


def test_the_tests_that_are_named_exist():
    for number, _, holds, tests in rows():
        named = re.findall(r"`([^`]+)`", tests)
        assert named or "*not built yet*" in holds, number
        for each in named:
            path, _, name = each.partition("::")
            assert f"def {name}(" in (TESTS / path).read_text(), each
