"""Arguments and options that the commands for a cluster share."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """How what was read is printed."""

    TEXT = "text"
    JSON = "json"


Name = Annotated[str, typer.Argument(metavar="RUN", show_default=False)]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Default: the context's.", show_default=False),
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context", help="Of the kubeconfig. Default: its current one.", show_default=False
    ),
]
Output = Annotated[Format, typer.Option("--format", help="text, or json: one document.")]
# What the commands were asked with before --format.
AsJson = Annotated[bool, typer.Option("--json", hidden=True)]


def print_json(document: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Something for the person, and not for a script that reads stdout."""
    typer.echo(text, err=True)
