"""What a round costs with stragglers: all waited for, those that are late refused, or folded.

Ten clients on ten workers; two of them take ten times as long. Eight answers close a round where
not all are waited for.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rounds import ROOT
from fedkube.store.history import Round
from fedkube.store.run_folder import RunFolder

CLIENTS, SLOW = 10, 2
SECONDS, SLOW_SECONDS = 0.2, 2.0
ROUNDS = 40
COHORTS = {
    "all waited for": (),
    "late refused": ("--cohort", "fraction=0.8 over-selection=1.25"),
    "late folded": ("--cohort", "fraction=0.8 over-selection=1.25 late=fold"),
}


def late() -> Iterator[dict[str, Any]]:
    """The same app in the three ways."""
    for name, cohort in COHORTS.items():
        rounds = _rounds(cohort)[1:]  # in the first, the workers start
        seconds = sum(each.seconds for each in rounds)
        counted = [client for each in rounds for client in _counted(each)]
        yield {
            "rounds": name,
            "s_per_round": round(seconds / len(rounds), 3),
            "updates_per_s": round(len(counted) / seconds, 1),
            "of_slow_clients": round(sum(client < SLOW for client in counted) / len(counted), 3),
        }


def _counted(entry: Round) -> list[int]:
    """Whose updates counted in a round that asked all."""
    phase = entry.phases["train"]
    failed = {each.client for each in phase.failures}
    return [*(set(range(CLIENTS)) - failed), *(each.client for each in phase.stale)]


def _rounds(cohort: tuple[str, ...]) -> list[Round]:
    config = f"num-server-rounds={ROUNDS} slow={SLOW} seconds={SECONDS} slow-seconds={SLOW_SECONDS}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        subprocess.run(
            [
                *(str(Path(sys.executable).parent / "fedkube"), "run"),
                *(str(ROOT / "tests" / "apps" / "stragglers"), "--clients", str(CLIENTS)),
                *("--workers", str(CLIENTS), "-c", config, "--out", str(out), *cohort),
                *("--no-progress", "--checkpoint-every", "0"),
            ],
            capture_output=True,
            check=True,
        )
        return RunFolder(out).read_history()
