"""``fedkube events``: what Kubernetes tells of a run and of all that belongs to it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedkube.cli.cluster import runs
from fedkube.cli.cluster.connection import connect
from fedkube.cli.cluster.options import Context, Format, Name, Namespace, Output, note, print_json
from fedkube.core.errors import Usage

if TYPE_CHECKING:
    from fedkube.cli.cluster.api import Api

Object = dict[str, Any]

# Of a message in a line; a traceback is for `fedkube get`, and JSON has all of it.
_WIDTH = 300


def events(
    run: Name,
    stream: Annotated[
        bool, typer.Option("--stream", "-f", help="Go on with those that come, until Ctrl-C.")
    ] = False,
    form: Output = Format.TEXT,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Print the Kubernetes events of a run, its jobs, pods and disk, the oldest first."""
    if stream and form is Format.JSON:
        raise Usage("--stream has no end, and --format json is one document")
    with connect(namespace, context) as (cluster, space):
        runs.get(cluster, space, run)
        if stream:
            with suppress(KeyboardInterrupt):
                _follow(cluster, space, run)
            return
        found, _ = of(cluster, space, run)
    if form is Format.JSON:
        print_json([summary(event) for event in found])
        return
    for event in found:
        typer.echo(line(event))
    if not found:
        note(f"no events of {run} (Kubernetes keeps them for an hour)")


def of(cluster: Api, space: str, run: str) -> tuple[list[Object], str]:
    """A run's events by time, and the version from which a watch goes on."""
    everyone = {body["metadata"]["name"] for body in cluster.list("FederatedRun", space)}
    found, version = cluster.listing("Event", space)
    mine = [event for event in found if whose(event, everyone) == run]
    return sorted(mine, key=moment), version


def whose(event: Object, everyone: set[str]) -> str | None:
    """The run that an event is about: all that a run has is named after it.

    Of runs "a" and "a-server", pod "a-server-server-x" is the second one's.
    """
    about = event.get("involvedObject") or {}
    name = str(about.get("name", ""))
    if about.get("kind") == "FederatedRun":
        return name
    owners = [run for run in everyone if name.startswith(f"{run}-")]
    return max(owners, key=len, default=None)


def moment(event: Object) -> str:
    """When it happened last."""
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event.get("firstTimestamp")
        or event["metadata"].get("creationTimestamp")
        or ""
    )


def summary(event: Object) -> Object:
    """What a script wants to know of an event."""
    about = event.get("involvedObject") or {}
    return {
        "time": moment(event),
        "type": event.get("type", ""),
        "reason": event.get("reason", ""),
        "object": f"{about.get('kind', '?')}/{about.get('name', '?')}",
        "count": (event.get("series") or {}).get("count") or event.get("count") or 1,
        "message": (event.get("message") or "").strip(),
    }


def line(event: Object) -> str:
    """An event as one line."""
    told = summary(event)
    times = f" (x{told['count']})" if told["count"] > 1 else ""
    ago = runs.since(told["time"])
    message = " ".join(told["message"].split())
    if len(message) > _WIDTH:
        message = message[:_WIDTH] + "…"
    return f"{ago:>4}  {told['type']:<7}  {told['reason']:<20}  {told['object']}{times}: {message}"


def _follow(cluster: Api, space: str, run: str) -> None:
    from fedkube.cli.cluster.follow import Away, happenings

    shown: set[tuple[str, object]] = set()
    away = False

    def look() -> tuple[list[Object], str]:
        return of(cluster, space, run)

    def news(happened: str, event: Object) -> bool:
        known = happened == "DELETED" or _key(event) in shown
        return not known and _is_of(cluster, space, event, run)

    for seen in happenings(cluster, "Event", space, look, wanted=news):
        if isinstance(seen, Away):
            if not away:
                note(f"the cluster does not answer ({seen.why}); trying again")
            away = True
            continue
        if away:
            note("the cluster answers again")
            away = False
        event = seen[1]
        if _key(event) not in shown:
            shown.add(_key(event))
            typer.echo(line(event))


def _is_of(cluster: Api, space: str, event: Object, run: str) -> bool:
    if not str((event.get("involvedObject") or {}).get("name", "")).startswith(run):
        return False
    everyone = {body["metadata"]["name"] for body in cluster.list("FederatedRun", space)}
    return whose(event, everyone | {run}) == run


def _key(event: Object) -> tuple[str, object]:
    return event["metadata"].get("uid", event["metadata"]["name"]), summary(event)["count"]
