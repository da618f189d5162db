"""Writes what can be written from the code: ``python docs/generate.py [--check]``."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import typer
import yaml
from pydantic import BaseModel
from typer.main import get_command

from fedkube.api.v1alpha1 import FederatedRunSpec, FederatedRunStatus, RunSpec
from fedkube.cli.main import EXIT_CODES, app
from fedkube.core import run_states, tasks
from fedkube.store import run_folder
from fedkube.wire import limits

HERE = Path(__file__).parent
VALUES = HERE.parent / "helm" / "fedkube" / "values.yaml"
_BEGIN, _END = "<!-- Made by `make docs` from helm/fedkube/values.yaml. -->\n", "<!-- end -->"


def reference() -> str:
    """``reference.md``."""
    parts = [
        "# Reference",
        "Generated from the code by `make docs`; edit the code instead.",
        "## Commands",
        *_commands(),
        "## Exit codes",
        _table(["code", "meaning"], [[str(code.value), text] for code, text in EXIT_CODES.items()]),
        "## The run folder",
        inspect.cleandoc(str(run_folder.__doc__)).partition("\n\n")[0],
        _run_folder(),
        "`run.json` has these fields:",
        _table(
            ["field", "type", "meaning"],
            [
                [f"`{name}`", _type(field.annotation), field.description or ""]
                for name, field in run_folder.RunRecord.model_fields.items()
            ],
        ),
        "`spec` in it is what a run is asked to be:",
        _table(["field", "default", "meaning"], list(_fields(RunSpec))),
        "## The object `FederatedRun`",
        "`spec` is what a user asks for:",
        _table(["field", "default", "meaning"], list(_fields(FederatedRunSpec))),
        "`status` is what the coordinator has seen:",
        _table(["field", "default", "meaning"], list(_fields(FederatedRunStatus))),
        "## States of a run",
        _states(run_states.TABLE),
        "## States of a task",
        "A task is one message for one logical client.",
        _states(tasks.TABLE),
        "## Limits of the exchange",
        _table(
            ["limit", "value"],
            [
                [f"`{name}`", f"{value:,g} s" if isinstance(value, float) else f"{value:,}"]
                for name, value in vars(limits).items()
                if name.isupper()
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def chart() -> str:
    """``chart.md``: as it is, with the table of values between its marks."""
    before, begin, rest = (HERE / "chart.md").read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        sys.exit("docs/chart.md has lost the marks that the table of values stands between")
    table = _table(["value", "default", "meaning"], list(_values(VALUES.read_text("utf-8"))))
    return f"{before}{begin}\n{table}\n\n{end}{after}"


def _values(text: str) -> Iterable[list[str]]:
    """Path, default and comment of each value, and of each group that has a comment."""
    lines = text.splitlines()

    def above(line: int) -> str:
        words: list[str] = []
        while line and (comment := lines[line - 1].strip()).startswith("#"):
            words.insert(0, comment.removeprefix("#").strip())
            line -= 1
        return " ".join(words)

    def walk(node: yaml.MappingNode, prefix: str) -> Iterable[list[str]]:
        for key, value in node.value:
            path, meaning = f"{prefix}{key.value}", above(key.start_mark.line)
            # A mapping in braces is one value.
            if isinstance(value, yaml.MappingNode) and not value.flow_style:
                if meaning:
                    yield [f"`{path}`", "", meaning]
                yield from walk(value, f"{path}.")
            else:
                default = text[value.start_mark.index : value.end_mark.index]
                yield [f"`{path}`", f"`{default}`", meaning]

    yield from walk(yaml.compose(text), "")


def _commands() -> Iterable[str]:
    group: Any = get_command(app)
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [
            each for each in command.params if each.param_type_name == "option" and not each.hidden
        ]
        words = [each.metavar or each.name.upper() for each in arguments]
        usage = " ".join(["fedkube", name, *words])
        yield f"### `{usage}`"
        yield str(command.help)
        rows = [
            [", ".join(f"`{opt}`" for opt in [*each.opts, *each.secondary_opts]), _help(each)]
            for each in options
        ]
        if rows:
            yield _table(["option", "meaning"], rows)


def _help(option: Any) -> str:
    plain = option.default in (None, "") or isinstance(option.default, bool)
    default = "" if plain or option.multiple else f" Default: {option.default}."
    return f"{option.help}{default}"


def _run_folder() -> str:
    lines = inspect.cleandoc(str(run_folder.__doc__)).splitlines()
    rows = [line.split("``") for line in lines if line.startswith("``")]
    return _table(["file", "holds"], [[f"`{row[1]}`", row[2].strip()] for row in rows])


def _fields(model: type[BaseModel]) -> Iterable[list[str]]:
    """Name, default and meaning of each field, those of objects within it after a dot."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def walk(properties: dict[str, Any], prefix: str) -> Iterable[list[str]]:
        for name, field in properties.items():
            # Something that may be null stands beside null.
            named = [field, *(each for each in field.get("anyOf", []))]
            target = next((each["$ref"] for each in named if "$ref" in each), "").rpartition("/")[2]
            if "properties" in definitions.get(target, {}):
                yield from walk(definitions[target]["properties"], f"{prefix}{name}.")
                continue
            default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
            yield [f"`{prefix}{name}`", default, field.get("description", "")]

    yield from walk(schema["properties"], "")


def _states(table: dict[tuple[Any, Any], Any]) -> str:
    rows = [[_word(state), _word(event), _word(after)] for (state, event), after in table.items()]
    lines = "\n".join(f"    {a} --> {c}: {b}" for a, b, c in rows)
    return f"```mermaid\nstateDiagram-v2\n{lines}\n```"


def _word(value: Enum) -> str:
    return str(value).replace(" ", "_")


def _type(annotation: Any) -> str:
    if "[" not in str(annotation) and "|" not in str(annotation):
        return str(annotation.__name__)
    text = str(annotation).replace("fedkube.store.run_folder.", "")
    return text.replace("datetime.datetime", "datetime")


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join(line(cells) for cells in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Write the pages, or with ``--check`` say whether they are stale."""
    for path, text in ((HERE / "reference.md", reference()), (HERE / "chart.md", chart())):
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"docs/{path.name} is stale; run `make docs` and commit it")


if __name__ == "__main__":
    main()
