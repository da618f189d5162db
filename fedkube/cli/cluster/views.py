"""How a run on a cluster looks in a terminal, and in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedkube.api.v1alpha1 import FederatedRunStatus, State
from fedkube.cli.cluster import runs
from fedkube.cli.words import bytes_in_words, counted, seconds_in_words

Object = dict[str, Any]

_SHOWN_METRICS = 6
STYLES = {
    State.RUNNING: "green",
    State.SUCCEEDED: "bold green",
    State.FAILED: "bold red",
    State.STOPPED: "bold yellow",
    State.SUSPENDED: "yellow",
}


class View:
    """A line for each thing that has changed; nothing in it moves."""

    def __init__(self, console: Console, run: str) -> None:
        self._console = console
        self._run = run
        self._said: tuple[object, ...] = ()
        self._reason = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to undo."""

    def say(self, text: str) -> None:
        """Something that is not of the run."""
        self._console.print(Text(text, "yellow"), soft_wrap=True)

    def show(self, run: Object) -> None:
        """The run has changed."""
        status = runs.status(run)
        # Bytes and times change all the time, and are no news by themselves.
        news = (status.state, status.round_of, status.workers)
        if news != self._said and not status.state.final:
            self._said = news
            self._console.print(_line(run, status), soft_wrap=True)
        self._explain(run, status)

    def conclude(self, run: Object) -> None:
        """The run has ended."""
        status = runs.status(run)
        self._console.print(
            Text.assemble((str(status.state), STYLES.get(status.state, "")), f"  {_sums(status)}"),
            soft_wrap=True,
        )
        if status.state is not State.SUCCEEDED:
            self._console.print(Text(f"why: {runs.why(run)}"), soft_wrap=True)
        for name, value in status.metrics.items():
            self._console.print(Text(f"  {name} = {value}"), soft_wrap=True)
        space = run["metadata"]["namespace"]
        if status.started_at is not None:
            verb = "pull" if status.state is State.SUCCEEDED else "logs"
            self._console.print(Text(f"next: fedkube {verb} {self._run} -n {space}", "dim"))

    def _explain(self, run: Object, status: FederatedRunStatus) -> None:
        """What the run waits for, when it is something else than before."""
        reason = runs.why(run)
        waits = status.state not in (State.RUNNING, State.SUCCEEDED) and not status.state.final
        troubled = any(
            each.type == "Ready" and each.status == "False" for each in status.conditions
        )
        if reason != self._reason and (waits or troubled) and not status.state.final:
            self._console.print(Text(f"  {reason}", "dim"), soft_wrap=True)
        self._reason = reason


class LiveView(View):
    """The same in a terminal, with lines at the bottom that say how far the run is."""

    def __init__(self, console: Console, run: str) -> None:
        super().__init__(console, run)
        self._status = FederatedRunStatus()
        self._body: Object = {}
        self._seen_at = time.monotonic()
        self._live = Live(self, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, run: Object) -> None:
        """The run has changed."""
        self._body, self._status, self._seen_at = run, runs.status(run), time.monotonic()
        self._explain(run, self._status)

    def __rich__(self) -> RenderableType:
        now = self._status
        rounds = Table.grid(padding=(0, 1))
        rounds.add_row(
            Text(self._run, "bold"),
            Text(str(now.state), STYLES.get(now.state, "")),
            Text(f"round {now.round_of}" if now.round_of else "before the first round"),
            ProgressBar(total=max(now.rounds, 1), completed=max(now.round - 1, 0), width=24),
            Text(_eta(now, time.monotonic() - self._seen_at), "dim"),
        )
        about = Text(_who(self._body, now), "dim")
        parts: list[RenderableType] = [rounds, about]
        if now.metrics:
            shown = list(now.metrics.items())[:_SHOWN_METRICS]
            parts.append(Text("  ".join(f"{name} {value}" for name, value in shown)))
        return Group(*parts)


def view_for(console: Console, run: str) -> View:
    """What fits the console: moving where it is a terminal, still where it is not."""
    return LiveView(console, run) if console.is_terminal else View(console, run)


def _line(run: Object, status: FederatedRunStatus) -> Text:
    parts = [f"round {status.round_of or '-'}", _who(run, status)]
    parts += [f"{name} {value}" for name, value in list(status.metrics.items())[:_SHOWN_METRICS]]
    if eta := _eta(status, 0.0):
        parts.append(eta)
    return Text.assemble((str(status.state), STYLES.get(status.state, "")), "  " + "  ".join(parts))


def _who(run: Object, status: FederatedRunStatus) -> str:
    parts = []
    if run:
        parts.append(counted(runs.clients(run), "client"))
    parts.append(counted(status.workers, "worker"))
    if status.gpus:
        parts.append(counted(status.gpus, "GPU"))
    return ", ".join(parts)


def _eta(status: FederatedRunStatus, since_s: float) -> str:
    if status.eta_seconds is None:
        return ""
    return f"about {seconds_in_words(max(status.eta_seconds - since_s, 1))} to go"


def _sums(status: FederatedRunStatus) -> str:
    parts = [counted(status.round, "round")]
    if status.started_at and status.ended_at:
        taken = (status.ended_at - status.started_at).total_seconds()
        parts.append(seconds_in_words(taken))
    sent = f"{bytes_in_words(status.bytes_down)} down, {bytes_in_words(status.bytes_up)} up"
    return ", ".join([*parts, sent])
