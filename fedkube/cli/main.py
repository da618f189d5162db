"""The ``fedkube`` command: its verbs, and how errors are shown."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console
from rich.markup import escape

from fedkube import __version__
from fedkube.cli import doctor, fork, new, resume, run
from fedkube.cli.cluster import events, lifecycle, logs, plan, pull, show, submit, watch
from fedkube.core.errors import Exit, FedKubeError

EXIT_CODES = {
    Exit.OK: "the run succeeded, or the command did what it says",
    Exit.INTERNAL: "a defect of FedKube itself; the traceback is for its developers",
    Exit.USAGE: "the command line is wrong; nothing was started",
    Exit.APP_INVALID: "the folder is no Flower app, or the app's code cannot be loaded",
    Exit.RUN_FAILED: "the run did not end well; the run folder, or `fedkube get`, says why",
    Exit.ENVIRONMENT: "this machine or the cluster lacks something: a port, disk space, a right",
    Exit.STOPPED: "ended by Ctrl-C or SIGTERM: a local run is stopped, one on a cluster goes on",
}

app = typer.Typer(
    name="fedkube",
    help="Federated learning that runs unmodified Flower apps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Exit codes: "
    + " · ".join(f"[bold]{code.value}[/bold] {text}" for code, text in EXIT_CODES.items()),
)
app.command("run")(run.run)
app.command("resume")(resume.resume)
app.command("fork")(fork.fork)
app.command("new")(new.new)
app.command("doctor")(doctor.doctor)
for _verb in (
    plan.plan,
    submit.submit,
    show.ls,
    show.get,
    watch.watch,
    events.events,
    logs.logs,
    lifecycle.stop,
    lifecycle.ban,
    pull.pull,
    lifecycle.delete,
):
    app.command(rich_help_panel="On a cluster")(_verb)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedkube {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Federated learning that runs unmodified Flower apps."""


def show_error(error: FedKubeError) -> None:
    """Print an error the way a person wants to read it: details first, the sentence last."""
    console = Console(stderr=True, highlight=False)
    if error.details:
        console.print(escape(error.details), style="dim", soft_wrap=True)
    console.print(f"[bold red]error:[/bold red] {escape(error.message)}", soft_wrap=True)
    if error.hint:
        console.print(f"[bold]hint:[/bold]  {escape(error.hint)}", soft_wrap=True)


def main() -> None:
    """Run the command line; every error that a person can mend is a sentence and an exit code."""
    try:
        app()
    except FedKubeError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has enough, as `head` does. What was to be done is done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)
