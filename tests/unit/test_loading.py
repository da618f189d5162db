from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fedkube.app import loading, tracebacks
from fedkube.core.errors import AppInvalid


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Write a module that no other test has, and forget it afterwards."""
    name = f"m_{abs(hash(request.node.name))}"
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    sys.modules.pop(name, None)


def test_an_app_is_loaded(module, tmp_path):
    name = module("from flwr.clientapp import ClientApp\nclass x: app = ClientApp()\n")
    assert isinstance(loading.load(f"{name}:x.app", tmp_path, ClientApp), ClientApp)


def test_a_module_without_the_attribute(module, tmp_path):
    name = module("other = 1\n")
    with pytest.raises(AppInvalid, match=f"module '{name}' lacks the attribute") as raised:
        loading.load(f"{name}:app", tmp_path, ClientApp)
    assert "tool.flwr.app.components" in raised.value.hint


def test_a_module_that_raises_shows_the_apps_own_traceback(module, tmp_path):
    name = module("def f():\n    return 1 / 0\nf()\n")
    with pytest.raises(AppInvalid, match="ZeroDivisionError: division by zero") as raised:
        loading.load(f"{name}:app", tmp_path, ClientApp)
    assert "return 1 / 0" in raised.value.details
    assert "importlib" not in raised.value.details
    assert "loading.py" not in raised.value.details


def test_a_module_that_exits_is_an_error_and_no_exit(module, tmp_path):
    name = module("raise SystemExit(0)\n")
    with pytest.raises(AppInvalid, match="cannot be imported: SystemExit"):
        loading.load(f"{name}:app", tmp_path, ClientApp)


def test_a_module_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(AppInvalid, match="ModuleNotFoundError"):
        loading.load("no_such_module_here:app", tmp_path, ClientApp)


def test_an_object_of_the_wrong_kind(module, tmp_path):
    name = module("from flwr.clientapp import ClientApp\napp = ClientApp()\n")
    with pytest.raises(AppInvalid, match="is a ClientApp, and must be a ServerApp"):
        loading.load(f"{name}:app", tmp_path, ServerApp)


def test_flower_is_told_who_speaks():
    loading.identify(run=11, node=12, task=13)
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (11, 12, 13)


@pytest.mark.parametrize("seed", [1, 2**63 - 1])
def test_the_same_seed_gives_the_same_numbers_everywhere(seed):
    def draw():
        return random.random(), np.random.random(), torch.rand(1).item()

    loading.seed_everything(seed)
    first = draw()
    assert draw() != first
    loading.seed_everything(seed)
    assert draw() == first


@pytest.mark.parametrize("devices", [0, 1])
def test_devices_are_seeded_where_there_are_any(monkeypatch, devices):
    seeded = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    loading._has_accelerator.cache_clear()
    try:
        loading.seed_everything(5)
    finally:
        loading._has_accelerator.cache_clear()
    assert seeded == [5] * devices
    assert torch.initial_seed() == 5


def _raised_in(folder, text):
    file = folder / "app_code.py"
    file.write_text(text)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever the app raises
        exec(compile(text, str(file), "exec"), {})
    return raised.value


def test_a_traceback_begins_with_the_apps_first_frame(tmp_path):
    error = _raised_in(tmp_path, "import json\njson.loads('{')\n")
    text = tracebacks.of_app(error, tmp_path)
    assert "test_loading.py" not in text
    assert text.index("app_code.py") < text.index("json")
    assert tracebacks.headline(text).startswith("json.decoder.JSONDecodeError")


def test_the_cause_is_shown_too(tmp_path):
    error = _raised_in(tmp_path, "try:\n    1/0\nexcept Exception as e:\n    raise KeyError from e")
    text = tracebacks.of_app(error, tmp_path)
    assert text.index("ZeroDivisionError") < text.index("KeyError")


def test_an_error_from_outside_the_app_is_only_its_headline(tmp_path):
    assert tracebacks.of_app(ValueError("x"), tmp_path) == "ValueError: x"


def test_a_very_long_traceback_is_cut_in_its_middle(tmp_path):
    text = tracebacks.of_app(ValueError("a" * 50_000 + "end"), tmp_path)
    assert len(text) < 9_000
    assert text.startswith("ValueError")
    assert "[...]" in text
    assert text.endswith("end")


def test_the_headline_of_nothing_is_empty():
    assert tracebacks.headline("  \n") == ""
