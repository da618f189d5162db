"""What a server in a pod begins with, and how its end is told.

A pod that takes another's place goes on from what that one has committed; one whose run had ended
says so again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedkube.api.v1alpha1 import ConfigValue
from fedkube.app import project
from fedkube.core import heap, logs
from fedkube.core.errors import Exit, FedKubeError
from fedkube.core.run_states import RunEvent, RunState, move
from fedkube.store.run_folder import RunFolder, RunRecord
from fedkube.wire.arguments import credentials_of, options_for_credentials
from fedkube_server.main import ServerProcess, leave

# Kubernetes keeps 4,096 bytes of a container's last words.
_LAST_WORDS = 4096


def begin(folder: Path, orders: bytes) -> RunRecord:
    """The run's record in its folder: as it ended, or fresh."""
    there = RunFolder(folder)
    banned: list[str] | None = None
    if (folder / "run.json").exists():
        record = there.read_record()
        if record.state.final:
            return record
        if there.has_journal(record):
            # Raises where the pod that this one replaces is still writing.
            there.refuse_if_open(record)
            record.state = move(record.state, RunEvent.RESUMED)
            there.write_record(record)
            return record
        # It was given up. Nothing of an unfinished life may pass for this one's, but who is banned.
        banned = record.banned
        for path in (folder / "run.json", *folder.glob("history.*"), *there.checkpoints()):
            path.unlink(missing_ok=True)
    record = RunRecord.model_validate_json(orders, by_name=True)
    record.banned = record.banned if banned is None else banned
    there = RunFolder.create(folder)
    try:
        app = project.read(record.spec.app)
        record.app = app.name
        overrides = as_declared(app.config, record.spec.run_config)
        record.spec.run_config = project.merge(app.config, overrides)
    except FedKubeError as error:
        record.state = move(record.state, RunEvent.BROKE)
        record.reason, record.message = type(error).__name__, error.message
    there.write_record(record)
    return record


def as_declared(
    defaults: Mapping[str, ConfigValue], overrides: Mapping[str, ConfigValue]
) -> dict[str, ConfigValue]:
    """Kubernetes stores 1.0 as 1: where the app's default is a float, so is what overrides it."""
    return {
        key: float(value) if isinstance(defaults.get(key), float) and type(value) is int else value
        for key, value in overrides.items()
    }


def last_words(record: RunRecord) -> bytes:
    """How the run ended, as JSON that fits."""
    words: dict[str, Any] = {
        "state": str(record.state),
        "reason": record.reason,
        "message": record.message[:1000],
        "details": record.details[-1200:],
        "rounds": record.rounds,
        "clients": record.clients,
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        "sha256": record.model.sha256 if record.model else "",
        "metrics": {name: f"{value:.6g}" for name, value in record.metrics.items()},
    }
    # The run folder has all of it; here the least needed goes first.
    text = json.dumps(words).encode()
    for name, shorter in (("details", ""), ("metrics", {}), ("message", record.message[:200])):
        if len(text) <= _LAST_WORDS:
            break
        words[name] = shorter
        text = json.dumps(words).encode()
    return text


def main() -> None:
    """Parse the command line and serve. 0: the run has ended, in whatever way, and it is told."""
    heap.keep()
    heap.trim_now_and_then()
    parser = argparse.ArgumentParser(prog="fedkube_server.pod", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the run folder")
    parser.add_argument("--orders", type=Path, required=True, help="the run's record as it begins")
    parser.add_argument("--last-words", type=Path, required=True, help="where the end is told")
    options_for_credentials(parser)
    options = parser.parse_args()
    logs.to_stderr(logging.INFO)
    folder = RunFolder(options.folder)
    try:
        record = begin(options.folder, options.orders.read_bytes())
        code = 0
        if record.state is RunState.PENDING:
            journal = folder.journal(record)
            code = ServerProcess(folder, credentials_of(options), lambda port: None, journal).run()
            record = folder.read_record()
    except FedKubeError as error:
        sys.exit(f"fedkube: {error.message}")
    if not record.state.final:
        leave(code or Exit.INTERNAL)
    if record.details:
        # Last words have room for little; `logs` is where a person looks for the rest.
        sys.stderr.write(f"{record.details}\n{record.message}\n")
    options.last_words.write_bytes(last_words(record))
    leave(Exit.OK)
