"""``fedkube resume``: an unfinished run goes on, on this machine or on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedkube.api.v1alpha1 import NO_JOURNAL
from fedkube.app import project
from fedkube.cli.cluster import lifecycle
from fedkube.cli.cluster.options import Context, Namespace
from fedkube.cli.run import plan_of, see_through
from fedkube.core.errors import Usage
from fedkube.core.run_states import RunEvent, RunState, move
from fedkube.store.run_folder import RunFolder, RunRecord


def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", show_default=False)],
    namespace: Namespace = None,
    context: Context = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="On stdout as JSON: the result, in one last line; of a run on a cluster, how it "
            "is when it is asked to go on.",
        ),
    ] = False,
    progress: Annotated[
        bool,
        typer.Option("--progress/--no-progress", help="Of a run folder: show how far the run is."),
    ] = True,
) -> None:
    """Go on with a run: a run folder on this machine, or the name of a stopped run on the cluster.

    On this machine, a run that was stopped, that failed, or whose processes were killed goes on
    after the last round that it has committed. On a cluster, a run that `fedkube stop` has stopped
    gets its workers back.
    """
    path = Path(run)
    # A folder that merely has the name of a run on the cluster is none.
    if path.name == run and not (path / "run.json").exists():
        lifecycle.resume(run, namespace, context, as_json)
        return
    folder, record = _unfinished(path)
    see_through(folder, record, plan_of(record), as_json, progress)


def _unfinished(path: Path) -> tuple[RunFolder, RunRecord]:
    """The run in a folder, in state Pending again; Usage where it cannot go on."""
    folder = RunFolder(path)
    if not (path / "run.json").exists():
        raise Usage(f"there is no run in {path}", hint="name a run folder, such as one in runs/")
    record = folder.read_record()
    if record.state is RunState.SUCCEEDED:
        raise Usage(f"the run in {path} has ended well; there is nothing to go on with")
    if not folder.has_journal(record):
        why = (
            "it was begun with --journal off"
            if record.spec.server.journal == NO_JOURNAL
            else "log.txt may say why it was given up"
        )
        raise Usage(
            f"the run in {path} has no journal, so it cannot go on",
            hint=f"{why}; begin a new run",
        )
    folder.refuse_if_open(record)
    project.read(record.spec.app)  # raises where the app is gone
    record.state = move(record.state, RunEvent.RESUMED)
    record.reason = record.message = record.details = ""
    record.ended_at = None
    folder.restore_ballast()
    folder.write_record(record)
    return folder, record
