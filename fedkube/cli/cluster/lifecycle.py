"""``fedkube stop``, ``resume`` and ``delete``."""

from __future__ import annotations

from typing import Any

from fedkube.cli.cluster import runs
from fedkube.cli.cluster.connection import connect
from fedkube.cli.cluster.options import Context, Name, Namespace, note, print_json
from fedkube.core.errors import Usage


def stop(run: Name, namespace: Namespace = None, context: Context = None) -> None:
    """Take a run's workers away until `fedkube resume`."""
    _suspend(run, namespace, context, True)
    note(f"run {run} has no workers from now on; `fedkube resume {run}` gives them back")


def resume(
    run: Name, namespace: Namespace = None, context: Context = None, as_json: bool = False
) -> None:
    """Give a stopped run its workers back."""
    found = _suspend(run, namespace, context, False)
    note(f"run {run} gets its workers back")
    if as_json:
        print_json(runs.summary(found))


def delete(run: Name, namespace: Namespace = None, context: Context = None) -> None:
    """Delete a run and all that it has in the cluster, its disk too unless it is to be kept."""
    with connect(namespace, context) as (cluster, space):
        found = runs.get(cluster, space, run)
        cluster.delete("FederatedRun", space, run)
    server = (found.get("spec") or {}).get("server") or {}
    kept = (server.get("storage") or {}).get("keep")
    note(f"run {run} is deleted" + (f"; its disk, claim {run}-run, is kept" if kept else ""))


def _suspend(run: str, namespace: str | None, context: str | None, wanted: bool) -> dict[str, Any]:
    """Take workers away or give them back; the run as it was before."""
    with connect(namespace, context) as (cluster, space):
        found = runs.get(cluster, space, run)
        state = runs.status(found).state
        if state.final:
            verb = "stopped" if wanted else "resumed"
            raise Usage(f"run {run!r} is {state}, and cannot be {verb} any more")
        cluster.patch("FederatedRun", space, run, {"spec": {"suspend": wanted}})
    return found
