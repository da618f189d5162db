"""``fedkube fork``: a new run that has the first rounds of another as its past."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fedkube.app import project
from fedkube.cli.run import plan_of, see_through, versions
from fedkube.core import ids
from fedkube.core.errors import Environment, Usage
from fedkube.core.run_states import RunState
from fedkube.store import forks
from fedkube.store.journal import Stored
from fedkube.store.run_folder import RunFolder, RunRecord


def fork(
    run: Annotated[str, typer.Argument(metavar="RUN-FOLDER", show_default=False)],
    number: Annotated[
        int, typer.Option("--round", help="The last round that is kept.", show_default=False)
    ],
    run_config: Annotated[
        list[str] | None,
        typer.Option(
            "--run-config",
            "-c",
            help="Overrides of that run's config, as `fedkube run` takes them.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The new run's folder. Default: runs/RUN-ID.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The last line on stdout is the result as JSON.")
    ] = False,
    progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Show how far the run is.")
    ] = True,
) -> None:
    """Begin a new run that has the first rounds of another as its own, and goes on from there.

    Up to that round, the replies of the other run's clients are taken as they were, whatever the
    run config is now; from then on clients are asked. The other run has to have its journal still:
    it did not end well, or was begun with --keep-journal.
    """
    source = RunFolder(Path(run))
    if not (source.path / "run.json").exists():
        raise Usage(f"there is no run in {run}", hint="name a run folder, such as one in runs/")
    old = source.read_record()
    app = project.read(old.spec.app)  # raises where the app is gone
    overrides = project.parse_overrides(run_config or [])
    config = project.merge(app.config, {**old.spec.run_config, **overrides})
    past = _past(source, old, number)
    now = datetime.now().astimezone()
    record = RunRecord(
        run_id=ids.run_id(app.name, now, os.urandom(2)),
        app=app.name,
        spec=old.spec.model_copy(update={"run_config": config}),
        versions=versions(),
        plan=old.plan,
        workers=old.workers,
        packs=old.packs,
        relays=old.relays,
        created_at=now,
        forked_from=f"{old.run_id}, round {number}",
    )
    folder = RunFolder.create(out or Path("runs") / record.run_id)
    _hand_over(source, folder, record, past, old.run_id, number)
    see_through(folder, record, plan_of(record), as_json, progress)


def _past(source: RunFolder, record: RunRecord, number: int) -> list[Stored]:
    """What the journal has of the first rounds; Usage where they cannot be had."""
    if not source.has_journal(record):
        raise Usage(
            f"the run in {source.path} has no journal, so it cannot be forked",
            hint="a run that ends well keeps it where it is begun with --keep-journal",
        )
    journal = source.journal(record)  # raises where the run is still going on
    assert journal is not None, "there is one"
    held = forks.holding(journal.stored)
    journal.close()
    last = forks.last_round(held)
    if not last:
        raise Usage(
            f"the journal in {source.path} has no rounds that are noted",
            hint="nothing was committed yet, or an earlier version wrote it: "
            "`fedkube resume` goes on with it",
        )
    # Of the last, something may be missing still.
    condensed = forks.condensed_round(held)
    whole = max(condensed, last if record.state is RunState.SUCCEEDED else last - 1)
    least = max(1, condensed)
    if not least <= number <= whole:
        there = f"rounds {least} to {whole}" if whole else "no round"
        raise Usage(f"--round is {number}, and the run in {source.path} has {there} whole")
    return forks.first_rounds(held, number)


def _hand_over(
    source: RunFolder,
    folder: RunFolder,
    record: RunRecord,
    past: list[Stored],
    run_id: str,
    number: int,
) -> None:
    """Write what the first rounds have left into the new run's folder, the record at last."""
    journal = folder.journal(record)
    assert journal is not None, "what had none cannot be forked"
    forks.begin(journal, past, run_id, number)
    if not journal.writes:
        raise Environment(
            f"{folder.path} has no room for the journal of the first rounds",
            hint="free some space, or choose another folder with --out",
        )
    journal.close()
    rounds = [each for each in source.read_history() if each.round <= number]
    folder.histories(record.run_id).begin(rounds)
    for path in source.checkpoints():
        if path < source.checkpoint(number + 1):
            shutil.copyfile(path, folder.path / "checkpoints" / path.name)
    folder.write_record(record)
