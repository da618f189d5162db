"""``fedkube watch``: a run until it has ended."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from fedkube.cli.cluster import runs
from fedkube.cli.cluster.connection import connect
from fedkube.cli.cluster.options import Context, Format, Name, Namespace, Output, note, print_json
from fedkube.cli.cluster.views import view_for
from fedkube.core.errors import Exit, Gone

if TYPE_CHECKING:
    from fedkube.cli.cluster.api import Api

Object = dict[str, Any]


def watch(
    run: Name,
    form: Output = Format.TEXT,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Follow a run until it has ended. Ctrl-C ends the watching, and not the run."""
    as_json = form is Format.JSON
    with connect(namespace, context) as (cluster, space):
        runs.get(cluster, space, run)
        follow_to_the_end(cluster, space, run, stderr=as_json, as_json=as_json)


def follow_to_the_end(
    cluster: Api, space: str, run: str, *, stderr: bool, as_json: bool = False
) -> None:
    """Show the run until it has ended; ends the command with the run's exit code."""
    from fedkube.cli.cluster.follow import Away, changes

    console = Console(stderr=stderr, highlight=False)
    lost_at: float | None = None
    try:
        with view_for(console, run) as view:
            for seen in changes(cluster, "FederatedRun", space, run):
                if isinstance(seen, Away):
                    if lost_at is None:
                        lost_at = time.monotonic()
                        view.say(f"the cluster does not answer ({seen.why}); trying again")
                    continue
                if lost_at is not None:
                    view.say(f"the cluster answers again, after {time.monotonic() - lost_at:.0f} s")
                    lost_at = None
                view.show(seen)
                if runs.status(seen).state.final:
                    break
            else:
                raise Gone(f"run {run!r} was deleted")
        view.conclude(seen)
    except KeyboardInterrupt:
        # Ctrl-C again, while these lines are printed, is not to end in a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        note(
            f"\nno longer watching; run {run} goes on: `fedkube watch {run} -n {space}` comes "
            f"back to it, `fedkube stop {run} -n {space}` takes its workers away"
        )
        raise typer.Exit(Exit.STOPPED) from None
    if as_json:
        print_json(runs.summary(seen))
    raise typer.Exit(runs.exit_code(seen))
