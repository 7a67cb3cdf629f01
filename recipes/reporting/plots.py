"""Plots, in SVG: gains over the baseline, curves of all arms, scores with intervals."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from recipes.fairseq_commands.training_log import SECONDS
from recipes.reporting.tables import (
    Column,
    arms_of,
    column_name,
    differences,
    figures,
    has_seeds,
    score,
    splits_and_beams,
)
from recipes.text import replaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {
    "bleu": "valid BLEU (greedy, while training)",
    "expected_bleu": "expected BLEU",
    "reward_greedy": "reward of greedy output",
    "reward": "reward of sampled output (training)",
    "entropy": "entropy of the tokens drawn (nats, training)",
    "nll_loss": "negative log-likelihood (bits / token)",
    "kl": "KL divergence of the latent variable (nats / sentence)",
    "length_ratio": "length ratio",
    "sample_length": "length of output (tokens)",
}
PALETTE = 10  # colours of arms; in SVG they are the page's --arm-0 to --arm-9
_MARKERS = "osD^vPX<>p"
_GAIN_MARKERS = 7  # no divisor in common with PALETTE: arms of one colour have other markers
# matplotlib knows no variables of a style sheet: stand-ins, replaced in the finished SVG.
_INK, _GRID = "#010203", "#010204"
_ARM = "#0102{:02x}"
_VARIABLES = {
    _INK: "var(--ink)",
    _GRID: "var(--line)",
    **{_ARM.format(16 + n): f"var(--arm-{n})" for n in range(PALETTE)},
}
_STYLE = {
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "axes.edgecolor": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "grid.color": _GRID,
}


@dataclass
class Plot:
    """An SVG image for a page, what it shows, and the same in words."""

    title: str
    svg: str
    description: str


@dataclass(frozen=True)
class Line:
    """How the curves of a system look: those of an arm's seeds alike."""

    color: int
    dashed: bool

    @property
    def marker(self) -> str:
        """A marker for each colour, so that colour is not all."""
        return _MARKERS[self.color % len(_MARKERS)]


def lines_of(results: dict[str, Any]) -> dict[str, Line]:
    """A line for every system that has curves; the control's is dashed."""
    arms: dict[str, int] = {}
    lines = {}
    for system in results["curves"]:
        arm = results["systems"][system]["arm"]
        color = arms.setdefault(arm, len(arms)) % PALETTE
        lines[system] = Line(color, arm == results["control"])
    return lines


def logged_metrics(results: dict[str, Any]) -> list[str]:
    """The metrics that some arm logged."""
    return [m for m in METRICS if any(m in curves for curves in results["curves"].values())]


def curve_of(
    results: dict[str, Any], system: str, metric: str, over: str
) -> tuple[list[float], list[float]] | None:
    """x and values of a curve.

    Args:
        over: ``updates`` or ``minutes``.

    Returns:
        None where the metric, or the time, was not logged.
    """
    curves = results["curves"][system]
    if metric not in curves:
        return None
    updates, values = curves[metric]
    # The BLEU of the checkpoint that the arm starts from is known.
    start = results["start_valid_bleu"][results["systems"][system]["start"]]
    if metric == "bleu" and start is not None:
        updates, values = [0, *updates], [start, *values]
    if over == "updates":
        return updates, values
    if SECONDS not in curves:
        return None
    seconds = {0: 0.0, **dict(zip(*curves[SECONDS], strict=True))}
    known = [(seconds[u] / 60, v) for u, v in zip(updates, values, strict=True) if u in seconds]
    return ([x for x, _ in known], [value for _, value in known]) if known else None


def plot_gains(results: dict[str, Any], path: Path) -> None:
    """Draw every arm's BLEU minus the baseline's, a dot for each seed and a bar at their mean."""
    import matplotlib

    columns = splits_and_beams(results)
    arms = [arm for arm in arms_of(results) if arm != results["baseline"]]
    step = 0.7 / max(len(arms), 1)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure = _figure(7.2, 1 + len(columns) * (0.2 + 0.12 * len(arms)))
        (axis,) = figure.axes
        for number, arm in enumerate(arms):
            rows = [n + step * (number + 0.5) - 0.35 for n in range(len(columns))]
            for row, column in zip(rows, columns, strict=True):
                gains = differences(results, arm, "bleu", column)
                style = {"color": f"C{number % PALETTE}", "markersize": 5}
                marker = _MARKERS[number % _GAIN_MARKERS]
                shown = arm if row == rows[0] else None
                axis.plot(gains, [row] * len(gains), marker, alpha=0.6, label=shown, **style)
                axis.plot(fmean(gains), row, "|", markeredgewidth=2, **{**style, "markersize": 11})
        axis.axvline(0, color="black", linestyle="--", linewidth=0.8)
        axis.set_yticks(range(len(columns)), [column_name(results, c) for c in columns])
        axis.invert_yaxis()
        axis.grid(axis="x", linewidth=0.6)
        axis.set_xlabel(f"BLEU minus that of {results['baseline']}")
        axis.legend(fontsize=8)
        with replaced([path]) as (temporary,):
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def curve_plots(results: dict[str, Any]) -> Iterator[Plot]:
    """Panels of all logged metrics, over updates and, where it is known, over time."""
    import matplotlib

    for metric in logged_metrics(results):
        for over in ("updates", "minutes"):
            with matplotlib.rc_context(_STYLE):
                figure = _figure(4.6, 2.9, margins=(0.15, 0.98, 0.17, 0.96))
                (axis,) = figure.axes
                last = _draw_curves(axis, results, metric, over)
                if not last:
                    continue
                title = f"{METRICS[metric]}, over {_axis_name(over)}"
                ends = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
                svg = _svg(figure, f"{metric}-{over}")
                yield Plot(title, svg, f"{title}. Last values: {ends}.")


def score_plots(results: dict[str, Any], columns: list[Column]) -> Iterator[Plot]:
    """BLEU of every arm with its interval, one panel for each column."""
    import matplotlib

    lines, arms = lines_of(results), arms_of(results)
    for number, column in enumerate(columns):
        with matplotlib.rc_context(_STYLE):
            figure = _figure(4.6, 0.8 + 0.26 * len(arms))
            (axis,) = figure.axes
            shown = []
            for row, (arm, systems) in enumerate(arms.items()):
                mean, low, high = _interval(results, arm, column)
                line = lines.get(systems[0])
                axis.errorbar(
                    mean,
                    row,
                    xerr=[[mean - low], [high - mean]],
                    fmt=line.marker if line else "o",
                    color=_INK if line is None else _ARM.format(16 + line.color),
                    markersize=5,
                    capsize=2,
                )
                if arm == results["baseline"]:
                    axis.axvline(mean, color=_INK, linestyle="--", linewidth=0.8)
                shown.append(f"{arm} {mean:.2f} ({low:.2f} to {high:.2f})")
            axis.set_yticks(range(len(arms)), arms)
            axis.invert_yaxis()
            axis.grid(axis="x", linewidth=0.6)
            axis.set_xlabel("BLEU")
            title = f"BLEU on {column_name(results, column)}"
            svg = _svg(figure, f"scores-{number}")
            yield Plot(title, svg, f"{title}: {', '.join(shown)}.")


def _interval(results: dict[str, Any], arm: str, column: Column) -> tuple[float, float, float]:
    """Mean BLEU and its 95 % interval: over seeds or, where there is one, by bootstrap."""
    found = score(results, arm, "bleu", column)
    assert found is not None
    if has_seeds(results):
        half = found.half_width or 0.0
        return found.mean, found.mean - half, found.mean + half
    scored = figures(results, arms_of(results)[arm][0], column)["scores"]["bleu"]
    # The interval is around the mean of the resamples.
    center, half = scored["mean"], scored["interval"]
    return found.mean, min(found.mean, center - half), max(found.mean, center + half)


def _axis_name(over: str) -> str:
    return "updates" if over == "updates" else "time of training (minutes)"


def _draw_curves(axis: Axes, results: dict[str, Any], metric: str, over: str) -> dict[str, float]:
    """Draw the metric's curve of every system; returns their last values."""
    last = {}
    for system, line in lines_of(results).items():
        points = curve_of(results, system, metric, over)
        if points is None:
            continue
        axis.plot(
            *points,
            "--" if line.dashed else "-",
            marker=line.marker,
            markersize=3.5,
            linewidth=1.4,
            color=_ARM.format(16 + line.color),
            clip_on=False,
            label=system,
        )
        last[system] = points[1][-1]
    axis.set_xlim(left=0)
    axis.set_xlabel(_axis_name(over))
    axis.grid(linewidth=0.6)
    return last


def _figure(
    width: float,
    height: float,
    margins: tuple[float, float, float, float] | None = None,
) -> Figure:
    """A figure that belongs to no window and no list of open ones; sizes in inches.

    ``margins``: left, right, bottom and top as shares of the figure, which saves finding them.
    """
    from matplotlib.figure import Figure

    layout = "constrained" if margins is None else None
    figure = Figure(figsize=(width, height), layout=layout)
    figure.subplots()
    if margins is not None:
        left, right, bottom, top = margins
        figure.subplots_adjust(left=left, right=right, bottom=bottom, top=top)
    return figure


def _svg(figure: Figure, name: str) -> str:
    """An inline ``<svg>``, its colours those of the page; ``name`` keeps its ids apart."""
    buffer = io.StringIO()
    figure.patch.set_alpha(0)
    for axis in figure.axes:
        axis.patch.set_alpha(0)
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px sans-serif", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    # Its size is given by the page.
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    return f'{head} aria-hidden="true" focusable="false">{rest}'.strip()
