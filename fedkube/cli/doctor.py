"""``fedkube doctor``: what this machine has, and what is missing for which command."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from fedkube import __version__
from fedkube.core.errors import Exit
from fedkube.local import machine


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``needed_for``: what does not work without it."""

    what: str
    ok: bool
    found: str
    needed_for: str


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say what this machine has, and what is missing for which command."""
    findings = examine()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        _print(findings)
    broken = any(not each.ok and each.needed_for == "fedkube run" for each in findings)
    raise typer.Exit(Exit.ENVIRONMENT if broken else Exit.OK)


def examine() -> list[Finding]:
    """Look at everything."""
    seen = machine.look()
    gpus = f"{len(seen.gpus)}: {', '.join(seen.gpus)}" if seen.gpus else "none"
    free = shutil.disk_usage(Path.cwd()).free
    return [
        Finding("fedkube", True, __version__, "fedkube run"),
        Finding("Python", True, platform.python_version(), "fedkube run"),
        _package("flwr", "fedkube run"),
        Finding("cores", True, str(seen.cores), "fedkube run"),
        Finding("memory", True, f"{seen.memory_bytes / 2**30:.1f} GiB", "fedkube run"),
        Finding("disk here", free > 2**28, f"{free / 2**30:.1f} GiB free", "fedkube run"),
        _temporary_folder(),
        _package("matplotlib", "metrics.png in the run folder"),
        _package("torch", "apps that use PyTorch, such as examples/digits"),
        _package("scikit-learn", "the examples"),
        Finding("CUDA GPUs", bool(seen.gpus), gpus, "training on GPUs"),
        _kubernetes(),
    ]


def _package(name: str, needed_for: str) -> Finding:
    try:
        return Finding(name, True, version(name), needed_for)
    except PackageNotFoundError:
        return Finding(name, False, "not installed", needed_for)


def _temporary_folder() -> Finding:
    try:
        with tempfile.TemporaryDirectory() as folder:
            return Finding("temporary folder", True, str(Path(folder).parent), "fedkube run")
    except OSError as error:
        return Finding("temporary folder", False, str(error), "fedkube run")


def _kubernetes() -> Finding:
    """The kubeconfig's current context, read and not contacted."""
    need = "running on a cluster"
    path = Path(os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep)[0]).expanduser()
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        context = config.get("current-context")
    except (OSError, yaml.YAMLError, AttributeError):
        return Finding("Kubernetes context", False, f"none: no kubeconfig at {path}", need)
    return Finding("Kubernetes context", bool(context), context or "none chosen", need)


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found", "needed for"):
        table.add_column(column)
    for each in findings:
        mark = "[green]ok[/green]" if each.ok else "[yellow]--[/yellow]"
        table.add_row(mark, each.what, each.found, each.needed_for)
    Console(highlight=False).print(table)
