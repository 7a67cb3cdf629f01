"""Validation curves of all arms."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_PANELS = {
    "bleu": "valid BLEU (greedy, while training)",
    "expected_bleu": "valid expected BLEU",
    "nll_loss": "valid negative log-likelihood (bits / token)",
    "length_ratio": "valid length ratio",
}


def plot_curves(results: dict[str, Any], path: Path) -> bool:
    """Draw one panel for each metric that some arm logged; False when there is none."""
    curves = results["curves"]
    panels = [metric for metric in _PANELS if any(metric in c for c in curves.values())]
    if not panels:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(5.5 * columns, 3.6 * rows), squeeze=False, layout="constrained"
    )
    flat = list(axes.flat)
    for axis, metric in zip(flat, panels, strict=False):
        for number, (arm, metrics) in enumerate(curves.items()):
            if metric not in metrics:
                continue
            updates, values = metrics[metric]
            # All arms leave from the same checkpoint, whose BLEU is known.
            if metric == "bleu" and results.get("start_valid_bleu") is not None:
                updates, values = [0, *updates], [results["start_valid_bleu"], *values]
            style = "--" if arm == results["control"] else "-"
            axis.plot(updates, values, style, marker=".", color=f"C{number % 10}", label=arm)
        axis.set_title(_PANELS[metric], fontsize=10)
        axis.set_xlabel("updates")
        axis.grid(alpha=0.3)
    flat[0].legend(fontsize=8)
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(results["recipe"])
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=120, format="png")
    os.replace(temporary, path)
    pyplot.close(figure)
    return True
