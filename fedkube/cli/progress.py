"""How a run looks in a terminal, and in a log.

In a terminal the app's own output scrolls by above two lines that stay: the round, and its clients.
Where stdout is no terminal, there is a plain line for each round that has ended.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedkube.cli.words import bytes_in_words, counted, seconds_in_words
from fedkube.core.run_states import RunState
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store.run_folder import RunRecord

_STYLES = {
    RunState.SUCCEEDED: "bold green",
    RunState.FAILED: "bold red",
    RunState.STOPPED: "bold yellow",
}
_SHOWN_METRICS = 6


class PatientConsole(Console):
    """Goes quiet when nobody reads any more, as under ``head``; a run is not over for that."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process, as rich does."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def write_line(self, line: str) -> None:
        """A line as it is: an app may print hundreds of thousands, and rich is slow with each."""
        if self.quiet:
            return
        try:
            self.file.write(f"{line}\n")
            self.file.flush()
        except BrokenPipeError:
            self.on_broken_pipe()


class RunView:
    """Shows a run line by line; nothing in it moves."""

    def __init__(self, console: PatientConsole, record: RunRecord, rounds: bool) -> None:
        self._console = console
        self._record = record
        self._rounds = rounds

    def __enter__(self) -> Self:
        spec = self._record.spec
        self._print(
            f"[bold]{escape(self._record.run_id)}[/bold]  {counted(spec.pool.clients, 'client')}, "
            f"{escape(self._record.plan)}, seed {spec.seed}"
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to undo."""

    def log(self, source: str, line: str) -> None:
        """A process has printed a line."""
        self._console.write_line(f"{_label(source)} {line}")

    def snapshot(self, snapshot: pb.Snapshot) -> None:
        """Where the run is now."""
        if self._rounds:
            for ended in snapshot.ended:
                self._print(_round_line(ended, snapshot.rounds, snapshot.eta_s))

    def conclude(self, record: RunRecord, folder: Path) -> None:
        """The run has ended."""
        if record.state is RunState.FAILED and record.details:
            self._console.print(Text(record.details, style="dim"), soft_wrap=True)
        style = _STYLES.get(record.state, "bold")
        parts = [
            counted(record.rounds, "round"),
            seconds_in_words(record.duration_s),
            f"{bytes_in_words(record.bytes_down)} down, {bytes_in_words(record.bytes_up)} up",
            f"server peak {bytes_in_words(record.server_peak_rss_bytes)}",
        ]
        self._print(f"[{style}]{record.state}[/{style}]  " + ", ".join(parts))
        if record.state is not RunState.SUCCEEDED:
            self._print(f"[{style}]why:[/{style}] {escape(record.message)}")
        for name, value in record.metrics.items():
            self._print(f"  {escape(name)} = {value:.6g}")
        self._print(f"all of it is in {escape(str(folder))}")

    def _print(self, markup: str) -> None:
        self._console.print(markup, soft_wrap=True)


class LiveView(RunView):
    """The same in a terminal, with lines at the bottom that say how far the run is."""

    def __init__(self, console: PatientConsole, record: RunRecord) -> None:
        super().__init__(console, record, rounds=True)
        self._snapshot = pb.Snapshot(state="Pending", eta_s=-1)
        self._began = time.monotonic()
        self._live = Live(self, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        super().__enter__()
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def log(self, source: str, line: str) -> None:
        """A process has printed a line."""
        text = Text.assemble((f"{_label(source)} ", "cyan" if source == "server" else "dim"), line)
        self._console.print(text, soft_wrap=True)

    def snapshot(self, snapshot: pb.Snapshot) -> None:
        """Where the run is now."""
        super().snapshot(snapshot)
        self._snapshot = snapshot

    def __rich__(self) -> RenderableType:
        now = self._snapshot
        rounds = Table.grid(padding=(0, 1))
        rounds.add_row(
            Text(f"round {now.round}" + (f"/{now.rounds}" if now.rounds else ""), "bold"),
            ProgressBar(total=max(now.rounds, 1), completed=max(now.round - 1, 0), width=24),
            Text(seconds_in_words(time.monotonic() - self._began)),
            Text(f"about {seconds_in_words(now.eta_s)} to go" if now.eta_s >= 0 else "", "dim"),
            Text(
                f"{bytes_in_words(now.bytes_down)} down, {bytes_in_words(now.bytes_up)} up", "dim"
            ),
        )
        clients = Table.grid(padding=(0, 1))
        if now.phase:
            failed = Text(f"{now.failed} failed" if now.failed else "", "red")
            clients.add_row(
                Text(f"{now.phase}: {now.done}/{now.clients} clients"),
                ProgressBar(total=max(now.clients, 1), completed=now.done, width=24),
                Text(f"{now.running} running on {counted(now.workers, 'worker')}", "dim"),
                failed,
            )
        else:
            waiting = "the server is at work" if now.workers else "waiting for the first worker"
            clients.add_row(Text(waiting, "dim"))
        return Group(rounds, clients)


def view_for(console: PatientConsole, record: RunRecord, progress: bool) -> RunView:
    """What fits the console: moving where it is a terminal, still where it is not."""
    if progress and console.is_terminal:
        return LiveView(console, record)
    return RunView(console, record, rounds=progress)


def _round_line(ended: pb.RoundLine, rounds: int, eta_s: float) -> str:
    of = f"/{rounds}" if rounds else ""
    parts = [f"[bold]round {ended.round}{of}[/bold]  {seconds_in_words(ended.seconds)}"]
    if ended.round == 0:
        parts = ["[bold]before the first round[/bold]"]
    if ended.clients or ended.failures:
        parts.append(counted(ended.clients, "client"))
    if ended.late:
        parts.append(f"{ended.late} of them late")
    if ended.failures:
        parts.append(f"[red]{ended.failures} failed[/red]")
    if ended.not_needed:
        parts.append(f"[dim]{ended.not_needed} not waited for[/dim]")
    parts += [f"{escape(each.name)} {each.value:.4g}" for each in ended.metrics[:_SHOWN_METRICS]]
    if eta_s > 0:
        parts.append(f"[dim]about {seconds_in_words(eta_s)} to go[/dim]")
    return "  ".join(parts)


def _label(source: str) -> str:
    return f"{source:>9} │"
