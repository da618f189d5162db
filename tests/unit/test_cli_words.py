from __future__ import annotations

import pytest

from fedkube.cli import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.5, "500 ms"),
        (1, "1.0 s"),
        (89, "89.0 s"),
        (90, "1 min 30 s"),
        (3600, "60 min 00 s"),
        (5400, "1 h 30 min"),
        (86400, "24 h 00 min"),
    ],
)
def test_seconds_in_words(seconds, text):
    assert words.seconds_in_words(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (3e15, "3000.0 TB")],
)
def test_bytes_in_words(count, text):
    assert words.bytes_in_words(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"),
        (172799, "47h"), (172800, "2d"),
    ],
)  # fmt: skip
def test_ages_as_kubectl_has_them(seconds, text):
    assert words.age_in_words(seconds) == text


def test_one_is_no_plural():
    assert (words.counted(1, "client"), words.counted(2, "client")) == ("1 client", "2 clients")
