"""``fedkube new``: write a small Flower app that runs at once."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from fedkube.core.errors import Environment, Usage


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
) -> None:
    """Write a small Flower app into the new folder NAME; `fedkube run NAME` runs it at once."""
    folder = write(Path(name))
    typer.echo(f"wrote {folder}")
    typer.echo(f"run it with: fedkube run {folder}")


def write(folder: Path) -> Path:
    """Write the app's files; Usage if the folder has something in it, or the name will not do."""
    name = folder.name
    package = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not package.isidentifier() or keyword.iskeyword(package):
        raise Usage(
            f"{name!r} gives no name for a Python package",
            hint="use letters, digits and dashes, and begin with a letter",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Usage(f"{folder} is there already, and not empty", hint="choose another name")
    words = {"name": package.replace("_", "-"), "package": package}
    templates = resources.files("fedkube.cli") / "template"
    try:
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(f'"""The app {name}."""\n', encoding="utf-8")
        for source, target in (
            ("pyproject.toml.in", folder / "pyproject.toml"),
            ("README.md.in", folder / "README.md"),
            ("client_app.py.in", folder / package / "client_app.py"),
            ("server_app.py.in", folder / package / "server_app.py"),
            ("task.py.in", folder / package / "task.py"),
        ):
            text = Template((templates / source).read_text(encoding="utf-8"))
            target.write_text(text.substitute(words), encoding="utf-8")
    except OSError as error:
        raise Environment(f"cannot write {folder}: {error.strerror}") from None
    return folder
