"""``fedkube run``: a Flower app through real federated rounds on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import secrets
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from fedkube import __version__
from fedkube.api.v1alpha1 import JOURNAL_PATTERN, Checkpoints, Pool, RunSpec, Server
from fedkube.app import project
from fedkube.cli import cohorts
from fedkube.cli.progress import PatientConsole, view_for
from fedkube.cli.words import per_gpu
from fedkube.core import ids
from fedkube.core.errors import Exit, Usage
from fedkube.core.quantisation import Compression
from fedkube.core.run_states import RunState
from fedkube.local import machine
from fedkube.local.launcher import Launcher
from fedkube.planner import machine as planner
from fedkube.planner.packing import AUTO
from fedkube.store.history import strict
from fedkube.store.run_folder import RunFolder, RunRecord

_EXITS = {
    "AppInvalid": Exit.APP_INVALID,
    "Environment": Exit.ENVIRONMENT,
    "Usage": Exit.USAGE,
}


def run(
    app: Annotated[str, typer.Argument(metavar="APP", show_default=False)],
    clients: Annotated[
        int | None,
        typer.Option(
            "--clients",
            help="Logical clients, each with its partition. Default: what the app's own settings "
            f"say, or {project.DEFAULT_CLIENTS}.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            help="Processes that serve clients in turn. Default: what the machine has.",
            show_default=False,
        ),
    ] = None,
    clients_per_gpu: Annotated[
        str | None,
        typer.Option(
            "--clients-per-gpu",
            metavar="N|auto",
            help="Clients that are served on each GPU at a time; when memory runs out there, one "
            "less. auto: as many as its memory turns out to be for. Default: 1.",
            show_default=False,
        ),
    ] = None,
    relays: Annotated[
        int,
        typer.Option(
            "--relays",
            help="Processes between server and workers that add up what comes from below, each for "
            "its share of the workers.",
        ),
    ] = 0,
    run_config: Annotated[
        list[str] | None,
        typer.Option(
            "--run-config",
            "-c",
            help="Overrides of the app's run config: 'key=value key2=\"two words\"', or a TOML "
            "file.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The run folder. Default: runs/RUN-ID.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="Same seed, same final model. Default: one is drawn, and written down.",
            show_default=False,
        ),
    ] = None,
    client_timeout: Annotated[
        float | None,
        typer.Option(
            "--client-timeout",
            help="Seconds that a client may take for one message; then its process is ended and "
            "the client counts as failed. Default: no limit but the app's own.",
            show_default=False,
        ),
    ] = None,
    cohort: Annotated[
        list[str] | None, typer.Option("--cohort", help=cohorts.HELP, show_default=False)
    ] = None,
    compression: Annotated[
        Compression,
        typer.Option(
            "--compression",
            help="How clients send their updates: as they are, or rounded to bf16 or int8.",
        ),
    ] = Compression.NONE,
    threads: Annotated[
        int, typer.Option("--threads", help="CPU threads that a client computes with.")
    ] = 1,
    port: Annotated[
        int, typer.Option("--port", help="The server's port on 127.0.0.1; 0 takes a free one.")
    ] = 0,
    checkpoint_every: Annotated[
        int, typer.Option("--checkpoint-every", help="Keep every so many rounds' model; 0: none.")
    ] = 1,
    keep_checkpoints: Annotated[
        int, typer.Option("--keep-checkpoints", help="Keep the newest so many; 0: all.")
    ] = 3,
    journal: Annotated[
        str,
        typer.Option(
            "--journal",
            help="Where the journal is from which the run goes on when its server dies: a URL in "
            "an object store (s3://, gs://, az://), or 'off' for none. Default: in the run folder.",
            show_default=False,
        ),
    ] = "",
    journal_bytes: Annotated[
        int | None,
        typer.Option(
            "--journal-bytes",
            help="Condense the journal beyond so many bytes: what the strategy is after the rounds "
            "so far takes the place of their replies. Default: a quarter of the space that is "
            "free; in an object store, never.",
            show_default=False,
        ),
    ] = None,
    keep_journal: Annotated[
        bool,
        typer.Option(
            "--keep-journal",
            help="Keep the journal when the run has ended well, so that it can be forked.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The last line on stdout is the result as JSON.")
    ] = False,
    progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Show how far the run is.")
    ] = True,
) -> None:
    """Run the Flower app in the folder APP, as it is, through federated rounds on this machine."""
    loaded = project.read(app)
    config = project.merge(loaded.config, project.parse_overrides(run_config or []))
    count = clients if clients is not None else loaded.clients or project.DEFAULT_CLIENTS
    plan = planner.plan(machine.look(), count, workers, threads, per_gpu(clients_per_gpu))
    if _in_range("--relays", relays, 0) > len(plan.workers):
        raise Usage(
            f"--relays is {relays}, and there are {len(plan.workers)} workers: each relay needs at "
            "least one",
            hint="give more --workers, or fewer --relays",
        )
    spec = RunSpec(
        app=str(loaded.folder),
        run_config=config,
        pool=Pool(clients=count, client_timeout_s=_positive(client_timeout), threads=threads),
        cohort=cohorts.read(cohort or [], count),
        compression=compression.value,
        server=Server(
            listen=f"127.0.0.1:{_in_range('--port', port, 0, 65535)}",
            journal=_place(journal),
            journal_bytes=None
            if journal_bytes is None
            else _in_range("--journal-bytes", journal_bytes, 1),
            keep_journal=keep_journal,
        ),
        checkpoints=Checkpoints(
            every=_in_range("--checkpoint-every", checkpoint_every, 0),
            keep=_in_range("--keep-checkpoints", keep_checkpoints, 0),
        ),
        seed=secrets.randbits(32) if seed is None else _in_range("--seed", seed, 0, 2**63 - 1),
    )
    now = datetime.now().astimezone()
    run_id = ids.run_id(loaded.name, now, os.urandom(2))
    folder = RunFolder.create(out or Path("runs") / run_id)
    record = RunRecord(
        run_id=run_id,
        app=loaded.name,
        spec=spec,
        versions=versions(),
        plan=f"{plan.why}, below {_relays(relays)}" if relays else plan.why,
        workers=len(plan.workers),
        packs=clients_per_gpu == AUTO,
        relays=relays,
        created_at=now,
    )
    folder.write_record(record)
    see_through(folder, record, plan, as_json, progress)


def plan_of(record: RunRecord) -> planner.Plan:
    """Workers for a run that was planned before: as many as it had, or found out again."""
    there, pool = machine.look(), record.spec.pool
    packs = record.packs and bool(there.gpus)
    workers = None if packs else record.workers or None
    return planner.plan(there, pool.clients, workers, pool.threads, AUTO if packs else None)


def see_through(
    folder: RunFolder,
    record: RunRecord,
    plan: planner.Plan,
    as_json: bool,
    progress: bool,
) -> None:
    """Launch the run in a folder, show it, and leave with the exit code of its end."""
    console = PatientConsole(stderr=as_json, highlight=False)
    relays = min(record.relays, len(plan.workers))
    with view_for(console, record, progress) as view:
        ended = asyncio.run(Launcher(folder, plan, view, relays).run())
    view.conclude(ended, folder.path)
    if as_json:
        sys.stdout.write(json.dumps(strict(result(ended, folder.path))) + "\n")
    raise typer.Exit(exit_code(ended))


def result(record: RunRecord, out: Path) -> dict[str, object]:
    """What ``--json`` prints."""
    return {
        "run_id": record.run_id,
        "state": str(record.state),
        "rounds": record.rounds,
        "clients": record.clients,
        "metrics": record.metrics,
        "model": record.model.model_dump() if record.model else None,
        "duration_s": round(record.duration_s, 3),
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        "server_peak_rss_bytes": record.server_peak_rss_bytes,
        "out": str(out),
        **({"reason": record.reason, "message": record.message} if record.reason else {}),
    }


def exit_code(record: RunRecord) -> Exit:
    """The exit code of a run that has ended."""
    if record.state is RunState.SUCCEEDED:
        return Exit.OK
    if record.state is RunState.STOPPED:
        return Exit.STOPPED
    return _EXITS.get(record.reason, Exit.RUN_FAILED)


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1e9:
        raise Usage(f"--client-timeout is {value:g}, and must be a number of seconds above 0")
    return value


def _in_range(option: str, value: int, low: int, high: int | None = None) -> int:
    if value < low or (high is not None and value > high):
        upper = "" if high is None else f" and at most {high}"
        raise Usage(f"{option} is {value}, and must be at least {low}{upper}")
    return value


def _place(journal: str) -> str:
    if not re.match(JOURNAL_PATTERN, journal):
        raise Usage(
            f"--journal is {journal!r}, and must be 'off' or begin with s3://, gs:// or az://",
            hint="leave it out to have the journal in the run folder",
        )
    return journal


def _relays(count: int) -> str:
    return "1 relay" if count == 1 else f"{count} relays"


def versions() -> dict[str, str]:
    """Of FedKube, Python, and what matters."""
    names = ("flwr", "grpcio", "numpy", "protobuf")
    return {
        "fedkube": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "platform": platform.platform(),
    }
