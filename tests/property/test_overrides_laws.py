from __future__ import annotations

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from fedkube.app import project
from fedkube.core.errors import Usage

KEYS = st.from_regex(r"[a-z][a-z0-9_.-]{0,12}", fullmatch=True)
# JSON's strings are TOML's basic strings, but for the characters that TOML refuses as they are.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=20)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
BARE = st.from_regex(r"[A-Za-z_/][A-Za-z_/-]*", fullmatch=True).filter(
    lambda word: word not in ("true", "false", "inf", "nan")
)


def spelt(value):
    """The value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def same(left, right):
    return type(left) is type(right) and left == right


@given(st.dictionaries(KEYS, st.booleans() | NUMBERS))
def test_numbers_and_booleans_come_back_as_they_were(config):
    text = " ".join(f"{key}={spelt(value)}" for key, value in config.items())
    parsed = project.parse_overrides([text])
    assert list(parsed) == list(config)
    assert all(same(parsed[key], value) for key, value in config.items())


@given(st.dictionaries(KEYS, TEXTS))
def test_quoted_strings_come_back_as_they_were(config):
    text = " ".join(f"{key}={spelt(value)}" for key, value in config.items())
    assert project.parse_overrides([text]) == config


@given(KEYS, BARE)
def test_bare_words_come_back_as_they_were(key, word):
    assert project.parse_overrides([f"{key}={word}"]) == {key: word}


@given(st.lists(st.dictionaries(KEYS, st.integers(-(2**63), 2**64 - 1), min_size=1), max_size=3))
def test_several_words_are_one_after_the_other(configs):
    words = [" ".join(f"{key}={value}" for key, value in config.items()) for config in configs]
    assert project.parse_overrides(words) == project.parse_overrides([" ".join(words)])


@given(st.text().filter(lambda word: not word.endswith(".toml")))
def test_any_text_is_parsed_or_refused_in_a_sentence(text):
    with contextlib.suppress(Usage):
        parsed = project.parse_overrides([text])
        assert all(isinstance(value, bool | int | float | str) for value in parsed.values())
