"""``fedkube stop``, ``resume``, ``ban`` and ``delete``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fedkube.api.v1alpha1.federated_run import BEING_TOLD
from fedkube.cli.cluster import runs
from fedkube.cli.cluster.connection import connect
from fedkube.cli.cluster.options import Context, Name, Namespace, note, print_json
from fedkube.core.errors import Environment, Usage

# Who else changes the run at the same time is done after so many tries, or never.
_TRIES = 5
# How long a server may take to hear of a ban. It is told until it does.
_HEARS_S = 15.0
_LOOK_S = 0.5


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


def ban(
    run: Name,
    sites: Annotated[list[str], typer.Argument(metavar="SITE...", show_default=False)],
    lift: Annotated[
        bool, typer.Option("--lift", help="They may take part again.", show_default=False)
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Leave sites out of a run from now on, and what they are sending, too."""
    with connect(namespace, context) as (cluster, space):
        for _ in range(_TRIES):
            found = runs.get(cluster, space, run)
            wanted = _banned(run, found, sites, lift)
            if cluster.swap("FederatedRun", space, run, found, {"spec": {"banned": wanted}}):
                break
        else:
            raise Environment(f"run {run!r} is being changed by others: try again")
        named = ", ".join(dict.fromkeys(sites))
        done = f"may take part in run {run} again" if lift else f"banned from run {run}"
        now = runs.get(cluster, space, run)
        if wanted and not (now.get("spec") or {}).get("banned"):
            raise Environment(
                "the cluster's definition of FederatedRun knows of no bans, and dropped this one",
                hint="apply the newer one (docs/upgrade.md); `fedkube stop` takes all workers away",
            )
        if not runs.status(now).started_at:
            note(f"{named}: {done}, which has not begun")
            return
        deadline = time.monotonic() + _HEARS_S
        while not _in_force(now):
            if time.monotonic() > deadline:
                raise Environment(
                    f"{named}: {done}, and its server has not heard of it in {_HEARS_S:g} s",
                    hint=f"it is told until it has; see `fedkube get {run}`",
                )
            time.sleep(_LOOK_S)
            now = runs.get(cluster, space, run)
    note(f"{named}: {done}, and its server knows")


def _in_force(found: dict[str, Any]) -> bool:
    """Whether the server does what the object says of bans now, or has no more to do."""
    status = runs.status(found)
    if status.state.final:
        return True
    if status.observed_generation < found["metadata"]["generation"]:
        return False
    told = next((each for each in status.conditions if each.type == "Banned"), None)
    if (found.get("spec") or {}).get("banned"):
        return told is not None and told.status == "True"
    return told is None or told.reason != BEING_TOLD


def _banned(run: str, found: dict[str, Any], sites: Sequence[str], lift: bool) -> list[str]:
    """Who is to be banned then."""
    state = runs.status(found).state
    if state.final:
        raise Usage(f"run {run!r} is {state}, and nobody takes part in it any more")
    spec = found.get("spec") or {}
    there = [site["name"] for site in spec.get("sites") or []]
    if not there:
        raise Usage(f"run {run!r} has a pool, and only sites can be banned")
    for site in sites:
        if site not in there:
            raise Usage(f"run {run!r} has no site {site!r}", hint=f"it has: {', '.join(there)}")
    before = set(spec.get("banned") or [])
    after = before - set(sites) if lift else before | set(sites)
    return [site for site in there if site in after]


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
