"""``metrics.png``: the curves of a run, for a person to look at."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

from fedkube.store import atomic
from fedkube.store.history import Round

# Blue, orange, green, purple, grey: told apart by people who do not see red and green, too.
_COLOURS = {"server": "#0072b2", "evaluate": "#e69f00", "train": "#009e73", "query": "#cc79a7"}
_MAX_PANELS = 9
# Beyond this, and for NaN, there is nothing to draw to scale.
_DRAWN = 1e100


def draw(rounds: list[Round], title: str, path: Path) -> bool:
    """Draw every scalar metric over the rounds; False where there is none, or no matplotlib."""
    curves = _curves(rounds)
    if not curves:
        return False
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    panels = dict(list(curves.items())[:_MAX_PANELS])
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.1 * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, parse_math=False)
    for index, (metric, by_part) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, index + 1)
        _panel(axes, metric, by_part)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a metric's name may hold glyphs that the font lacks
        figure.savefig(image, format="png", dpi=120)
    atomic.write(path, image.getvalue())
    return True


def _curves(rounds: list[Round]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Metric name to part (server, train, …) to points; what is central comes first."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for entry in rounds:
        for name, value in entry.flat_metrics().items():
            part, _, metric = name.partition(".")
            if abs(value) < _DRAWN:
                curves[metric][part].append((entry.round, value))
    order = sorted(curves, key=lambda metric: ("server" not in curves[metric], metric))
    return {metric: dict(curves[metric]) for metric in order}


def _panel(axes: Any, metric: str, by_part: dict[str, list[tuple[int, float]]]) -> None:
    for part, points in by_part.items():
        marker = "o" if len(points) <= 30 else ""
        xs, ys = zip(*points, strict=True)
        axes.plot(
            xs, ys, label=part, marker=marker, markersize=3.5, color=_COLOURS.get(part, "#777777")
        )
    axes.set_title(metric, fontsize=10, parse_math=False)
    axes.set_xlabel("round", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
