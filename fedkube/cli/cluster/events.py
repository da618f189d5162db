"""``fedkube events``: what Kubernetes tells of a run and of all that belongs to it."""

from __future__ import annotations

import time
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
        found, version = of(cluster, space, run)
        if form is Format.JSON:
            print_json([summary(event) for event in found])
            return
        for event in found:
            typer.echo(line(event))
        if not found and not stream:
            note(f"no events of {run} (Kubernetes keeps them for an hour)")
        if stream:
            with suppress(KeyboardInterrupt):
                _follow(cluster, space, run, version)


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
    return f"{ago:>4}  {told['type']:<7}  {told['reason']:<20}  {told['object']}{times}: {message}"


def _follow(cluster: Api, space: str, run: str, version: str) -> None:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    from fedkube.cli.cluster.refusals import PASSING

    shown: set[tuple[str, object]] = set()
    away = False
    while True:
        try:
            if not version:
                # The server was away, or has forgotten where we were: some may come again.
                found, version = of(cluster, space, run)
                news = [each for each in found if _key(each) not in shown]
            else:
                news = []
            if away:
                note("the cluster answers again")
                away = False
            _print_new(news, shown)
            for kind, body in cluster.watch("Event", space, version):
                if kind == "ERROR":
                    version = ""
                    break
                version = body["metadata"]["resourceVersion"]
                about = (body.get("involvedObject") or {}).get("name", "")
                if kind in ("ADDED", "MODIFIED") and about.startswith(run):
                    everyone = {each["metadata"]["name"] for each in cluster.list(
                        "FederatedRun", space
                    )} | {run}  # fmt: skip
                    if whose(body, everyone) == run:
                        _print_new([body], shown)
        except (ApiException, HTTPError) as error:
            if isinstance(error, ApiException) and error.status not in {*PASSING, 410}:
                raise
            version = ""
            if not away:
                note("the cluster does not answer; trying again")
            away = True
            time.sleep(2)


def _print_new(found: list[Object], shown: set[tuple[str, object]]) -> None:
    for event in found:
        if _key(event) not in shown:
            shown.add(_key(event))
            typer.echo(line(event))


def _key(event: Object) -> tuple[str, object]:
    return event["metadata"].get("uid", event["metadata"]["name"]), summary(event)["count"]
