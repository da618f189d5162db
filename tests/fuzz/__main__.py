"""Fuzzes what reads received bytes: ``python -m tests.fuzz TARGET [--runs N] [--seconds S]``.

Ends with a line of JSON and 0, or with 77 and the path of the input that broke something, which
``--replay PATH`` runs again. A seed of the target's own that breaks something ends it with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import atheris  # type: ignore[import-untyped]

from tests.fuzz.memory import MIB, Watch

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

# Inputs are short: the targets make long ones of them.
MAX_INPUT_BYTES = 4096
# An input that takes this long is a finding, too.
INPUT_TIMEOUT_S = 20


class Fuzzing:
    """One run of one target, until it has had enough inputs or time."""

    def __init__(self, name: str, target: Target, runs: int, seconds: float, folder: Path) -> None:
        self._folder = folder
        self._name, self._target = name, target
        self._last_run, self._runs = runs, 0
        self._seconds = seconds
        self._accepted = 0
        for seed in target.seeds:  # what is imported or cached once is no growth
            target.check(seed)
        self._start = time.monotonic()

    @cached_property
    def _watch(self) -> Watch:
        """Made with the first input: the fuzzer's own tables are no growth either."""
        return Watch()

    def run_one(self, data: bytes) -> None:
        """What the fuzzer calls with each input."""
        self._watch.check()
        self._accepted += self._target.check(data)
        # Again, so that it is this input that is written down.
        self._watch.check()
        self._runs += 1
        took = time.monotonic() - self._start
        if self._runs == self._last_run or (self._seconds and took > self._seconds):
            self._end(took)

    def _end(self, took: float) -> None:
        ended = {
            "target": self._name,
            "runs": self._runs,
            "accepted": self._accepted,
            "seconds": round(took, 1),
            "rss_growth_mib": round(self._watch.growth / MIB, 1),
        }
        print(json.dumps(ended), flush=True)
        shutil.rmtree(self._folder)
        # The fuzzer takes no other end than a failure or its own.
        os._exit(0)

    def mutate(self, data: bytes, max_size: int, seed: int) -> bytes:
        """Mostly by the target's format, else byte by byte; several of them make one input."""
        rng = random.Random(seed)
        made = self._target.mutate(data, rng) if rng.random() < 0.8 else None
        if made is None or len(made) > max_size:
            made = bytes(atheris.Mutate(data, max_size))
        return made


def main() -> None:
    """Read the command line and fuzz."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", help="without one: list them")
    parser.add_argument("--runs", type=int, default=0, help="end after so many inputs")
    parser.add_argument("--seconds", type=float, default=0, help="end after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzzer; 0: another each time")
    parser.add_argument("--corpus", type=Path, help="a folder to begin with and to add to")
    parser.add_argument("--replay", type=Path, help="run this one input instead")
    options = parser.parse_args()

    # Imported here and nowhere above: what is imported before is not instrumented.
    with atheris.instrument_imports(include=["fedkube"], exclude=["fedkube.proto"]):
        from tests.fuzz.targets import TARGETS

    if options.target is None:
        print("\n".join(TARGETS))
        return
    if options.target not in TARGETS:
        parser.error(f"no target {options.target!r}; there are: {', '.join(TARGETS)}")
    target = TARGETS[options.target]
    if options.replay:
        watch = Watch()
        target.check(options.replay.read_bytes())
        watch.check()
        return

    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{options.target}-"))
    corpus = options.corpus or folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    fuzzing = Fuzzing(options.target, target, options.runs, options.seconds, folder)
    flags = {
        "max_len": MAX_INPUT_BYTES,
        "timeout": INPUT_TIMEOUT_S,
        "seed": options.seed,
        "rss_limit_mb": 0,  # watched here, and more closely
        "artifact_prefix": f"{folder}/",
    }
    atheris.Setup(
        [sys.argv[0], *(f"-{flag}={value}" for flag, value in flags.items()), str(corpus)],
        fuzzing.run_one,
        custom_mutator=fuzzing.mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
