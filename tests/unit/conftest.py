"""Builders that more than one module needs. No mocks: fakes with the few methods that are used."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from fedkube_server.recorder import Recorder

from fedkube.api.v1alpha1 import Pool, RunSpec
from fedkube.app import loading
from fedkube.store.run_folder import RunFolder, RunRecord


class ManualClock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def make_record():
    def make(clients=3, run_config=None, checkpoints=None, **fields):
        spec = RunSpec(
            app="/apps/a",
            run_config=run_config or {},
            pool=Pool(clients=clients),
            seed=7,
            **({"checkpoints": checkpoints} if checkpoints else {}),
        )
        return RunRecord(
            run_id="20260101-000000-a-beef",
            app="a",
            spec=spec,
            versions={"fedkube": "0"},
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            **fields,
        )

    return make


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run")


@pytest.fixture
def make_recorder(folder, clock, make_record):
    def make(counters=lambda: (0, 0), **fields):
        return Recorder(folder, make_record(**fields), clock, counters)

    return make


@pytest.fixture
def as_server():
    """Flower's Message asks who is speaking in this process."""
    loading.identify(run=1, node=1, task=1)


@pytest.fixture
def write_app(tmp_path):
    """Write an app's pyproject.toml, and any other files, into a new folder."""

    def write(toml, **files):
        folder = tmp_path / "app"
        folder.mkdir()
        (folder / "pyproject.toml").write_text(toml, encoding="utf-8")
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
        return folder

    return write
