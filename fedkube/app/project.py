"""A Flower app's folder and its ``pyproject.toml``, the app's only file of settings."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkube.api.v1alpha1 import ConfigValue
from fedkube.core.aggregation import STATED, stated
from fedkube.core.errors import AppInvalid, Usage

# What Flower's own simulation starts when nothing else is said.
DEFAULT_CLIENTS = 10
# What a config's whole number may be, here and on the way.
_INTEGERS = range(-(1 << 63), 1 << 64)


@dataclass(frozen=True, slots=True)
class Project:
    """What the folder says of its app.

    ``serverapp`` and ``clientapp`` are references of the form ``module:attribute``.
    ``config`` is the run config's defaults, flat, with dotted keys.
    ``clients`` is how many clients the app's own federation settings ask for, if they do.
    """

    folder: Path
    name: str
    serverapp: str
    clientapp: str
    config: Mapping[str, ConfigValue]
    clients: int | None


def read(folder: str | Path) -> Project:
    """Read the app in ``folder``; raises AppInvalid with what is missing.

    Keys that FedKube does not know are left alone: they are the app's, or another tool's.
    """
    path = Path(folder)
    if not path.exists():
        raise AppInvalid(
            f"there is no folder {str(folder)!r}",
            hint="give the path of a Flower app, or write one with `fedkube new NAME`",
        )
    if not path.is_dir():
        raise AppInvalid(f"{str(folder)!r} is no folder", hint="give the folder of a Flower app")
    file = path / "pyproject.toml"
    if not file.is_file():
        raise AppInvalid(
            f"{str(path)!r} has no pyproject.toml, so it is no Flower app",
            hint="write a new one with `fedkube new NAME`",
        )
    try:
        toml = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AppInvalid(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AppInvalid(f"{file} is no valid TOML: {error}") from None
    app = _table(toml, file, "tool", "flwr", "app")
    components = _table(toml, file, "tool", "flwr", "app", "components")
    return Project(
        folder=path.resolve(),
        name=_name(toml) or path.resolve().name,
        serverapp=_reference(components, "serverapp", file),
        clientapp=_reference(components, "clientapp", file),
        config=_flat(app.get("config", {}), f"{file}: [tool.flwr.app.config]", AppInvalid),
        clients=_clients(toml),
    )


def parse_overrides(words: list[str]) -> dict[str, ConfigValue]:
    """Run-config overrides as the command line has them.

    Each word is ``key=value key2="two words"`` in TOML's notation of values, as Flower's own
    ``--run-config`` takes it, or the path of one TOML file. A bare word is taken as a string.
    """
    overrides: dict[str, ConfigValue] = {}
    for word in words:
        if word.endswith(".toml") and "=" not in word:
            overrides |= _from_file(Path(word))
        else:
            overrides |= _from_text(word)
    return overrides


def merge(
    defaults: Mapping[str, ConfigValue], overrides: Mapping[str, ConfigValue]
) -> dict[str, ConfigValue]:
    """Defaults with overrides on top; an override must be of a key that the app has, or ours."""
    for key in overrides:
        if key not in defaults and key != STATED:
            close = difflib.get_close_matches(key, defaults, n=1)
            known = ", ".join(sorted(defaults)) or "none at all"
            hint = f"did you mean {close[0]!r}?" if close else f"the app's keys are: {known}"
            raise Usage(f"the app has no run config key {key!r}", hint=hint)
    merged = {**defaults, **overrides}
    stated(merged)
    return merged


def _table(toml: Mapping[str, Any], file: Path, *keys: str) -> Mapping[str, Any]:
    here: Any = toml
    for key in keys:
        here = here.get(key) if isinstance(here, dict) else None
    if not isinstance(here, dict):
        raise AppInvalid(
            f"{file} has no [{'.'.join(keys)}] section, so it is no Flower app",
            hint='add [tool.flwr.app.components] with serverapp = "module:app" and clientapp',
        )
    return here


def _name(toml: Mapping[str, Any]) -> str:
    project = toml.get("project")
    name = project.get("name") if isinstance(project, dict) else None
    return name if isinstance(name, str) else ""


def _reference(components: Mapping[str, Any], key: str, file: Path) -> str:
    value = components.get(key)
    if not isinstance(value, str):
        raise AppInvalid(
            f"{file}: [tool.flwr.app.components] has no {key}",
            hint=f'add {key} = "module:app", the module and attribute of the {key}',
        )
    module, _, attribute = value.partition(":")
    if not module or not attribute:
        raise AppInvalid(f'{file}: {key} = "{value}" is not of the form "module:attribute"')
    return value


def _flat(
    table: Any, where: str, error: type[AppInvalid] | type[Usage], prefix: str = ""
) -> dict[str, ConfigValue]:
    """Nested tables to dotted keys, as Flower flattens them."""
    if not isinstance(table, dict):
        raise error(f"{where} is no table")
    flat: dict[str, ConfigValue] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, where, error, f"{prefix}{key}.")
        elif isinstance(value, ConfigValue):
            if isinstance(value, int) and value not in _INTEGERS:
                raise error(f"{where}: {prefix}{key} does not fit into 64 bits")
            flat[f"{prefix}{key}"] = value
        else:
            raise error(
                f"{where}: {prefix}{key} is a {type(value).__name__}, and a run config holds "
                "strings, numbers and booleans"
            )
    return flat


def _clients(toml: Mapping[str, Any]) -> int | None:
    """``options.num-supernodes`` of the app's default federation (older apps have the section)."""
    federations = toml["tool"]["flwr"].get("federations", {})
    if not isinstance(federations, dict):
        return None
    chosen = federations.get(str(federations.get("default", "")), {})
    options = chosen.get("options", {}) if isinstance(chosen, dict) else {}
    count = options.get("num-supernodes") if isinstance(options, dict) else None
    return count if type(count) is int and count > 0 else None


def _from_file(path: Path) -> dict[str, ConfigValue]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Usage(f"cannot read the run config file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Usage(f"{path} is no valid TOML: {error}") from None
    return _flat(table, str(path), Usage)


def _from_text(text: str) -> dict[str, ConfigValue]:
    overrides: dict[str, ConfigValue] = {}
    for word in _words(text):
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise Usage(
                f"--run-config: {word!r} is not of the form key=value",
                hint="write for example --run-config 'num-server-rounds=5 lr=0.1'",
            )
        overrides[key] = _value(value)
    return overrides


def _words(text: str) -> list[str]:
    """Split at blanks outside quotes; quotes stay, since TOML reads them."""
    words, word, quote, escaped = [], "", "", False
    for char in text:
        if quote:
            word += char
            if char == quote and not escaped:
                quote = ""
            # Only a quotation mark's strings have escapes; an apostrophe's are literal.
            escaped = quote == '"' and char == "\\" and not escaped
        elif char.isspace():
            words += [word] * bool(word)
            word = ""
        else:
            quote = char if char in "'\"" else ""
            word += char
    if quote:
        raise Usage(f"--run-config: a {quote} is opened and never closed in {text!r}")
    return words + [word] * bool(word)


def _value(text: str) -> ConfigValue:
    try:
        # In brackets, since TOML takes what follows a # on a line of its own for a comment.
        values = tomllib.loads(f"value = [{text}]")["value"]
    except tomllib.TOMLDecodeError:
        return text
    if len(values) != 1:
        return text
    if not isinstance(values[0], ConfigValue):
        raise Usage(f"--run-config: {text!r} is no string, number or boolean")
    if isinstance(values[0], int) and values[0] not in _INTEGERS:
        raise Usage(f"--run-config: {text} does not fit into 64 bits")
    return values[0]
