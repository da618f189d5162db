"""Each target with so many inputs as a commit can wait for; docs of the harness: ``__main__``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ROOT = Path(__file__).parent.parent.parent
MAX_GROWTH_MIB = 64

# Inputs that take a few seconds on one core.
RUNS = {"frames": 10_000, "packed": 10_000, "records": 20_000, "sums": 6_000, "tensors": 60_000}


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a crash must not end pytest, and its memory is measured."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def known(reason: str) -> pytest.MarkDecorator:
    """A finding that stands; the test fails once it is gone, so that this is taken out."""
    return pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)


def test_every_target_is_run() -> None:
    pytest.importorskip("atheris", reason="atheris is not made for every machine")
    assert sorted(call("tests.fuzz").stdout.split()) == sorted(RUNS)


@pytest.mark.parametrize("target", RUNS)
def test_nothing_but_rejected_comes_of_any_input(target: str) -> None:
    pytest.importorskip("atheris", reason="atheris is not made for every machine")
    ran = call("tests.fuzz", target, "--runs", str(RUNS[target]), "--seed", "1")
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    ended = json.loads(ran.stdout.splitlines()[-1])
    assert ended["runs"] == RUNS[target]
    assert ended["rss_growth_mib"] <= MAX_GROWTH_MIB
    # A harness of which everything is refused at once tests nothing.
    assert ended["accepted"] > ended["runs"] / 50


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            "empty-entries",
            marks=known("frames.read_control: a parsed entry takes fifty times its two bytes"),
        ),
        "one-blob-many-times",
        "one-blob-as-many-values",
    ],
)
def test_what_was_received_takes_little_more_memory_than_it_took_to_send(case: str) -> None:
    ran = call("tests.fuzz.amplification", case)
    ran.check_returncode()  # no AssertionError: a case that cannot run is no known failure
    assert int(ran.stdout) <= MAX_GROWTH_MIB * 1024 * 1024
