"""Plots, in SVG: gains over the baseline, and the curves of all arms."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from recipes.fairseq_commands.training_log import CURVES
from recipes.reporting.tables import arms_of, column_name, differences, main_title, splits_and_beams

_COLORS = 10  # of matplotlib's cycle
_MARKERS = "osD^vPX"  # no divisor in common with the colours: arms of one colour differ in it


@dataclass
class Plot:
    """An SVG image, and what it shows in words."""

    svg: str
    description: str

    @property
    def address(self) -> str:
        """The address of an image that is its content."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


def style_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Colour and marker of every arm, the same in all plots."""
    return {
        arm: {"color": f"C{number % _COLORS}", "marker": _MARKERS[number % len(_MARKERS)]}
        for number, arm in enumerate(arms_of(results))
    }


def curve_of(
    results: dict[str, Any], system: str, metric: str
) -> tuple[list[float], list[float]] | None:
    """Updates and values of a curve; None where the metric was not logged."""
    curves = results["curves"].get(system, {})
    if metric not in curves:
        return None
    updates, values = curves[metric]
    # The BLEU of the checkpoint that the arm starts from is known.
    start = results["start_valid_bleu"][results["systems"][system]["start"]]
    if metric == "bleu" and start is not None:
        return [0, *updates], [start, *values]
    return updates, values


def plot_gains(results: dict[str, Any]) -> Plot:
    """Every arm's score minus the baseline's, a dot for each seed and a bar at their mean."""
    columns = splits_and_beams(results)
    arms = [arm for arm in arms_of(results) if arm != results["baseline"]]
    styles, means = style_of(results), []

    def draw(figure: Any) -> None:
        axis, step = figure.subplots(), 0.7 / max(len(arms), 1)
        for number, arm in enumerate(arms):
            for row, column in enumerate(columns):
                gains = differences(results, arm, results["selection"], column)
                height = row + step * (number + 0.5) - 0.35
                name = arm if row == 0 else None
                heights = [height] * len(gains)
                style = {"markersize": 5, "linestyle": "", "alpha": 0.6, **styles[arm]}
                axis.plot(gains, heights, label=name, **style)
                bar = {"color": styles[arm]["color"], "markersize": 11, "markeredgewidth": 2}
                axis.plot(fmean(gains), height, "|", **bar)
                means.append(f"{arm} {fmean(gains):+.2f} ({column_name(results, column)})")
        axis.axvline(0, color="black", linestyle="--", linewidth=0.8)
        axis.set_yticks(range(len(columns)), [column_name(results, c) for c in columns])
        axis.set_ylim(len(columns) - 0.5, -0.5)
        axis.grid(axis="x", linewidth=0.6)
        axis.set_xlabel(title)
        axis.legend(fontsize=8)

    title = f"{main_title(results)} minus that of {results['baseline']}"
    title += ", lower is better" * results["metrics"][results["selection"]]["lower_is_better"]
    svg = _svg(7.2, 1 + len(columns) * (0.2 + 0.12 * len(arms)), draw)
    return Plot(svg, f"{title}: {', '.join(means)}.")


def plot_curves(results: dict[str, Any]) -> Plot | None:
    """A panel for each metric that some arm logged, over updates; None where there is none."""
    metrics = [m for m in CURVES if any(curve_of(results, s, m) for s in results["curves"])]
    if not metrics:
        return None
    ends: list[str] = []

    def draw(figure: Any) -> None:
        panels = list(figure.subplots(-(-len(metrics) // 2), 2, squeeze=False).flat)
        for panel, metric in zip(panels, metrics, strict=False):
            ends.append(f"{CURVES[metric]}: {_draw_curves(panel, results, metric)}")
        for panel in panels[len(metrics) :]:
            panel.set_axis_off()
        lines: dict[str, Any] = {}
        for panel in panels:
            handles, labels = panel.get_legend_handles_labels()
            lines.update(zip(labels, handles, strict=True))
        figure.legend(
            list(lines.values()), list(lines), loc="outside upper center", ncols=4, fontsize=8
        )

    svg = _svg(9.2, 0.6 + 2.5 * -(-len(metrics) // 2), draw)
    return Plot(svg, f"Curves over updates; last values: {'; '.join(ends)}.")


def _draw_curves(axis: Any, results: dict[str, Any], metric: str) -> str:
    """Draw the metric's curve of every system, the control's dashed; their last values."""
    ends = []
    styles = style_of(results)
    for arm, systems in arms_of(results).items():
        for number, system in enumerate(systems):
            points = curve_of(results, system, metric)
            if points is not None:
                style = {"linestyle": "--" if arm == results["control"] else "-", **styles[arm]}
                name = None if number else arm
                axis.plot(*points, markersize=3.5, linewidth=1.4, label=name, **style)
                ends.append(f"{system} {points[1][-1]:.4g}")
    axis.set_title(CURVES[metric], fontsize=10)
    axis.set_xlim(left=0)
    axis.set_xlabel("updates")
    axis.grid(linewidth=0.6)
    return ", ".join(ends)


def _svg(width: float, height: float, draw: Callable[[Any], None]) -> str:
    """A figure of this size in inches; the same results give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
