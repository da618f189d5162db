from __future__ import annotations

import sys

import pytest

from fedkube.core.errors import Environment
from fedkube.store import plots
from fedkube.store.history import Phase, Round

PNG = b"\x89PNG\r\n\x1a\n"


def rounds(count, **metrics):
    return [
        Round(n, 1.0, {"train": Phase("train", metrics=metrics)}, {"accuracy": n / 10})
        for n in range(1, count + 1)
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.png"


def test_a_png_is_drawn(path):
    assert plots.draw(rounds(3, loss=0.5, accuracy=0.4), "a run", path)
    assert path.read_bytes().startswith(PNG)


@pytest.mark.parametrize("entries", [[], [Round(1)], [Round(1, server={"curve": [1, 2]})]])
def test_without_scalar_metrics_there_is_nothing_to_draw(path, entries):
    assert not plots.draw(entries, "a run", path)
    assert not path.exists()


def test_without_matplotlib_nothing_is_drawn(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not plots.draw(rounds(1), "a run", path)
    assert not path.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308])
def test_numbers_that_cannot_be_drawn_are_no_error(path, value):
    assert plots.draw(rounds(2, loss=value), "a run", path)


def test_many_metrics_and_odd_names_are_no_error(path):
    many = {f"m{i} 損失 _x": float(i) for i in range(20)}
    assert plots.draw(rounds(2, **many), "a $ run_1", path)


def test_what_is_central_comes_first():
    curves = plots._curves(rounds(2, loss=0.5, accuracy=0.4, a=1))
    assert list(curves) == ["accuracy", "a", "loss"]
    assert curves["accuracy"] == {
        "train": [(1, 0.4), (2, 0.4)],
        "server": [(1, 0.1), (2, 0.2)],
    }


def test_a_plot_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(Environment):
        plots.draw(rounds(1), "a run", tmp_path / "gone" / "metrics.png")
