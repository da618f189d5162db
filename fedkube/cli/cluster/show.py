"""``fedkube ls`` and ``fedkube get``: how runs are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedkube.api.v1alpha1 import State
from fedkube.cli.cluster import events, pods, runs
from fedkube.cli.cluster.connection import connect
from fedkube.cli.cluster.options import (
    AsJson,
    Context,
    Format,
    Name,
    Namespace,
    Output,
    note,
    print_json,
)
from fedkube.cli.cluster.views import STYLES
from fedkube.cli.words import bytes_in_words, seconds_in_words
from fedkube.core.errors import Usage

Object = dict[str, Any]

_EVENTS = 5


def ls(
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="The runs of all namespaces.")
    ] = False,
    form: Output = Format.TEXT,
    namespace: Namespace = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """List the runs, the newest last."""
    if everywhere and namespace:
        raise Usage("--all-namespaces and --namespace exclude each other")
    with connect(namespace, context) as (cluster, space):
        found = (
            cluster.everywhere("FederatedRun")
            if everywhere
            else cluster.list("FederatedRun", space)
        )
    found = sorted(
        found, key=lambda run: (run["metadata"].get("creationTimestamp") or "", _place(run))
    )
    if as_json or form is Format.JSON:
        print_json([runs.summary(run) for run in found])
        return
    if not found:
        typer.echo("no runs" + ("" if everywhere else f" in namespace {space}"), err=True)
        return
    heads = ["NAME", "STATE", "ROUND", "CLIENTS", "GPUS", "ETA", "AGE"]
    table = _table(*(["NAMESPACE"] if everywhere else []), *heads)
    for run in found:
        status, metadata = runs.status(run), run["metadata"]
        table.add_row(
            *([metadata["namespace"]] if everywhere else []),
            metadata["name"],
            Text(str(status.state), STYLES.get(status.state, "")),
            status.round_of,
            str(runs.clients(run)),
            str(status.gpus),
            status.eta,
            runs.age(run),
        )
    _console().print(table)


def get(
    run: Name,
    form: Output = Format.TEXT,
    namespace: Namespace = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Say how a run is: conditions, pods, metrics, model, newest events."""
    with connect(namespace, context) as (cluster, space):
        found = runs.get(cluster, space, run)
        of_run = _if_allowed(lambda: pods.of(cluster, space, run))
        newest = _if_allowed(lambda: events.of(cluster, space, run)[0][-_EVENTS:])
    if as_json or form is Format.JSON:
        print_json(
            runs.summary(found)
            | {
                "pods": [pods.summary(pod) for pod in of_run],
                "events": [events.summary(event) for event in newest],
            }
        )
        return
    _print(found, of_run, newest)


def _if_allowed(call: Callable[[], list[Object]]) -> list[Object]:
    """Nothing, where the caller may see the run and not what belongs to it."""
    from kubernetes.client.exceptions import ApiException

    from fedkube.cli.cluster.refusals import message_of

    try:
        return call()
    except ApiException as error:
        if error.status != 403:
            raise
        note(f"left out: {message_of(error)}")
        return []


def _print(run: Object, of_run: list[Object], newest: list[Object]) -> None:
    console, status, metadata = _console(), runs.status(run), run["metadata"]
    console.print(
        Text.assemble(
            (metadata["name"], "bold"),
            f" in {metadata['namespace']}  ",
            (str(status.state), STYLES.get(status.state, "")),
            f"  round {status.round_of or '-'}  {runs.age(run)} old",
        )
    )
    facts = [f"{runs.clients(run)} clients", f"{status.workers} workers connected"]
    facts += [f"{status.gpus} GPUs"] if status.gpus else []
    facts.append(f"{bytes_in_words(status.bytes_down)} down, {bytes_in_words(status.bytes_up)} up")
    if status.eta_seconds is not None:
        facts.append(f"about {seconds_in_words(status.eta_seconds)} to go")
    console.print("  " + ", ".join(facts), soft_wrap=True)
    for condition in status.conditions:
        word = f"{condition.type} {condition.status}"
        console.print(Text(f"  {word} ({condition.reason}): {condition.message}"), soft_wrap=True)
    for name, value in status.metrics.items():
        console.print(Text(f"  {name} = {value}"), soft_wrap=True)
    if status.model is not None:
        model = status.model
        console.print(Text(f"  model: {model.path} in claim {model.claim}"), soft_wrap=True)
        console.print(Text(f"         sha256 {model.sha256}"), soft_wrap=True)
    if of_run:
        table = _table("POD", "ROLE", "STATE", "RESTARTS", "NODE", "AGE")
        for pod in of_run:
            told = pods.summary(pod)
            table.add_row(
                told["name"], told["site"] or told["role"], told["state"], str(told["restarts"]),
                told["node"], runs.age(pod),
            )  # fmt: skip
        console.print()
        console.print(table)
    if newest:
        console.print()
        for event in newest:
            console.print(Text(events.line(event)), soft_wrap=True)
    if status.state is State.FAILED and status.started_at is not None:
        console.print(f"next: fedkube logs {metadata['name']} -n {metadata['namespace']}")


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in heads:
        # A name that is cut off is of no use in the next command.
        table.add_column(head, no_wrap=True, overflow="ignore")
    return table


def _place(run: Object) -> tuple[str, str]:
    return run["metadata"].get("namespace", ""), run["metadata"]["name"]
