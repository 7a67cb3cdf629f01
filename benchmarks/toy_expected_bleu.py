"""The toy experiment of arXiv 1712.04708: free rows of logits, trained on the published bound.

There is no model: ten rows of logits over 10,000 words are the parameters, the reference is ten
random tokens, and Adam (learning rate 1, 100 steps) maximises the unsmoothed bound of order
N = 1..4. At every step the bound is compared with the other values of the same quantity, with
sampled BLEU and with the BLEU of the most probable words, all without smoothing.

    python -m benchmarks.toy_expected_bleu --output docs/results/toy_expected_bleu
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.report import environment, markdown_table, write_by_rename, write_json, write_text
from benchmarks.toy_problems import SETTINGS, Problems, Setting, draw_problems

VALUES = ("paper", "exact", "lower", "upper")
# Probabilities are float32, so those of a row may sum to 1 + 1e-7; "above" means beyond rounding.
RELATIVE_MARGIN = 1e-6


def curve_points(
    problems: Problems, p_ref: Tensor, max_order: int, samples: int, generator: torch.Generator
) -> dict[str, list[float]]:
    """Every curve's value now, one number a seed."""
    p_ref = p_ref.detach().double()
    now = {value: problems.scores(p_ref, value, max_order) for value in VALUES}
    now["sampled"], now["sampled_error"] = problems.sampled_scores(
        p_ref, max_order, samples, generator
    )
    now["argmax"] = problems.argmax_scores(max_order)
    return {name: scores.tolist() for name, scores in now.items()}


def train(
    setting: Setting, max_order: int, *, seeds: int, steps: int, samples: int
) -> dict[str, np.ndarray]:
    """Curves ``[steps + 1, seeds]`` by name, the first row before any step.

    And ``first_gradient``, the largest derivative to a logit before the first step, [candidates].
    """
    problems = draw_problems(setting, seeds)
    # Adam works element by element, so one optimiser of all seeds is one of each.
    optimiser = torch.optim.Adam([problems.logits], lr=1.0)
    generator = torch.Generator().manual_seed(0)
    curves: dict[str, list[list[float]]] = {}
    for step in range(steps + 1):
        p_ref = problems.probabilities()
        for name, now in curve_points(problems, p_ref, max_order, samples, generator).items():
            curves.setdefault(name, []).append(now)
        if step == steps:
            break
        bounds = problems.scores(p_ref, "paper", max_order)
        objective = (bounds.log() if setting.maximise == "log" else bounds).sum()
        optimiser.zero_grad()
        (-objective).backward()
        if step == 0:
            first_gradient = problems.logits.grad.abs().amax(dim=(1, 2))
        optimiser.step()
    return {
        "first_gradient": first_gradient.numpy(),
        **{name: np.array(values) for name, values in curves.items()},
    }


def is_above(bound: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return bound > truth * (1 + RELATIVE_MARGIN)


def summary(curves: dict[str, np.ndarray]) -> dict[str, float]:
    """Final values over the seeds, and in which share of the steps the bound lies above."""
    paper, exact = curves["paper"], curves["exact"]
    seen = curves["sampled"] > 0
    above_sampled = is_above(paper, curves["sampled"] + 2 * curves["sampled_error"])
    final = {
        f"final_{name}": float(values[-1].mean())
        for name, values in curves.items()
        if name in (*VALUES, "sampled", "argmax")
    }
    seeds = paper.shape[1]
    return {
        **final,
        "final_sampled_error": float(np.sqrt((curves["sampled_error"][-1] ** 2).sum()) / seeds),
        "final_paper_min": float(paper[-1].min()),
        "final_paper_max": float(paper[-1].max()),
        "first_gradient": float(curves["first_gradient"].max()),
        "largest_excess": float((paper - exact).max()),
        "share_above_exact": float(is_above(paper, exact).mean()),
        "share_above_sampled": float(above_sampled.mean()),
        "share_sampled_positive": float(seen.mean()),
        "share_above_sampled_where_positive": float(
            above_sampled[seen].mean() if seen.any() else np.nan
        ),
        "share_lower_above_exact": float(is_above(curves["lower"], exact).mean()),
        "share_exact_above_upper": float(is_above(exact, curves["upper"]).mean()),
    }


def plot(results: dict[str, dict[int, dict[str, np.ndarray]]], path: Path) -> None:
    """One row a setting, one column an order; lines are means over the seeds."""
    styles = {
        "argmax": ("BLEU of the arg max", "0.6", "-"),
        "sampled": ("sampled BLEU, ± 2 s.e.", "k", "-"),
        "upper": ("upper bound", "C3", ":"),
        "exact": ("exact expectation", "C0", "-"),
        "paper": ("published bound", "C1", "--"),
        "lower": ("lower bound", "C2", ":"),
    }
    orders = sorted(next(iter(results.values())))
    figure, axes = plt.subplots(
        len(results),
        len(orders),
        figsize=(3.2 * len(orders), 2.2 * len(results) + 0.6),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for row, (name, by_order) in zip(axes, results.items(), strict=True):
        for axis, order in zip(row, orders, strict=True):
            curves = by_order[order]
            for curve, (label, colour, line) in styles.items():
                mean = curves[curve].mean(axis=1)
                axis.plot(mean, line, color=colour, label=label, linewidth=1.3)
            error = np.sqrt((curves["sampled_error"] ** 2).sum(axis=1)) / curves["paper"].shape[1]
            mean = curves["sampled"].mean(axis=1)
            axis.fill_between(
                range(len(mean)), mean - 2 * error, mean + 2 * error, color="k", alpha=0.2
            )
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"{name}\nunsmoothed BLEU")
    for axis, order in zip(axes[0], orders, strict=True):
        axis.set_title(f"N = {order}")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8)
    write_by_rename(path, lambda temporary: figure.savefig(temporary, dpi=110))
    plt.close(figure)


def percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


def tables(summaries: dict[str, dict[int, dict[str, float]]]) -> str:
    """Final values and shares of steps, one table a setting."""
    parts = []
    for setting in SETTINGS:
        if setting.name not in summaries:
            continue
        header = ["N", "published bound", "(min to max)", "exact", "lower", "upper"]
        header += ["sampled BLEU", "BLEU of arg max", "above exact", "largest excess"]
        header += ["above sampled", "same, seen", "first gradient"]
        if setting.literature:
            header.append("authors' run")
        rows = []
        for order, result in summaries[setting.name].items():
            row = [str(order), f"{result['final_paper']:.4f}"]
            row.append(f"{result['final_paper_min']:.4f} to {result['final_paper_max']:.4f}")
            row += [f"{result[f'final_{value}']:.4f}" for value in ("exact", "lower", "upper")]
            row.append(f"{result['final_sampled']:.4f} ± {result['final_sampled_error']:.4f}")
            row.append(f"{result['final_argmax']:.4f}")
            row.append(percent(result["share_above_exact"]))
            row.append(f"{max(result['largest_excess'], 0.0):.4f}")
            row.append(percent(result["share_above_sampled"]))
            row.append(percent(result["share_above_sampled_where_positive"]))
            row.append(f"{result['first_gradient']:.0e}")
            if setting.literature:
                row.append(f"{setting.literature[order - 1]:.4f}")
            rows.append(row)
        parts.append(f"## {setting.title} (`{setting.name}`)\n\n{markdown_table(header, rows)}\n")
    return "\n".join(parts)


EXPLANATION = """\
# The toy experiment of the differentiable BLEU bound

Written by `{command}`; the setting is that of Zhukov, Golikov and Kretov (arXiv 1712.04708).
The parameters are rows of logits, one row a token, drawn from a standard normal distribution; the
reference's tokens are drawn uniformly. Adam (learning rate 1, torch's other defaults) takes
{steps} steps to maximise the published bound of order N, without smoothing. The candidate has as
many tokens as the reference. Every number below is unsmoothed BLEU from 0 to 1 and a mean over
{seeds} seeds, all of which set the logits and the references alike.

* **published bound**, **exact**, **lower**, **upper**: BLEU's formula on the four values of the
  expected overlaps, after the last step.
* **sampled BLEU**: mean BLEU of {samples} candidates drawn from the rows, ± one standard error
  of the mean over the seeds. It is the true expectation that the others stand for.
* **BLEU of arg max**: the most probable word of every row.
* **above exact**: share of all steps of all seeds in which the published bound is larger than
  the exact value of the same formula; **largest excess**: by how much at most.
* **above sampled**: the same, larger than sampled BLEU by more than two standard errors.
  Without smoothing a sample of BLEU is 0 unless it has an N-gram right, so early steps see only
  zeros, with a standard error of 0, and any positive number counts as above.
* **same, seen**: only the steps where a sample was not 0 ({seen} of them over all settings).
* **first gradient**: largest derivative to a logit before the first step. Adam adds 1e-8 to the
  size of a gradient before it divides by it, so parameters whose gradient is far smaller stay
  where they are.
* **authors' run**: one seed, read from the paper.

"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("docs/results/toy_expected_bleu"),
        help="path of the results without suffix; .md, .png, .json are added",
    )
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps")
    parser.add_argument("--samples", type=int, default=200, help="candidates per Monte Carlo mean")
    parser.add_argument("--max-order", type=int, default=4, help="largest N")
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=[s.name for s in SETTINGS],
        default=[s.name for s in SETTINGS],
        help="versions of the experiment",
    )
    parsed = parser.parse_args(arguments)
    for name in ("seeds", "steps", "max_order"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if parsed.samples < 2:
        parser.error("--samples must be at least 2: one sample has no standard error")
    return parsed


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    torch.set_num_threads(1)
    started = time.perf_counter()
    chosen = [setting for setting in SETTINGS if setting.name in options.settings]
    curves: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    jobs = [(setting, order) for setting in chosen for order in range(1, options.max_order + 1)]
    for setting, order in tqdm(jobs, unit="run"):
        curves.setdefault(setting.name, {})[order] = train(
            setting, order, seeds=options.seeds, steps=options.steps, samples=options.samples
        )
    summaries = {
        name: {order: summary(result) for order, result in by_order.items()}
        for name, by_order in curves.items()
    }
    seen = np.mean(
        [
            result["share_sampled_positive"]
            for orders in summaries.values()
            for result in orders.values()
        ]
    )
    seconds = time.perf_counter() - started
    text = EXPLANATION.format(
        command="python -m benchmarks.toy_expected_bleu",
        steps=options.steps,
        seeds=options.seeds,
        samples=options.samples,
        seen=percent(float(seen)),
    )
    plot(curves, options.output.with_suffix(".png"))
    picture = options.output.with_suffix(".png").name
    text += tables(summaries)
    text += f"\n![Curves over the steps, means over the seeds]({picture})\n"
    write_text(options.output.with_suffix(".md"), text)
    write_json(
        options.output.with_suffix(".json"),
        {
            "settings": [asdict(setting) for setting in chosen],
            "seeds": options.seeds,
            "steps": options.steps,
            "samples": options.samples,
            "seconds": round(seconds, 1),
            "environment": environment(),
            "summaries": summaries,
            "mean_curves": {
                name: {
                    order: {
                        curve: [float(f"{x:.4g}") for x in values.mean(axis=1)]
                        for curve, values in result.items()
                        if curve != "first_gradient"
                    }
                    for order, result in by_order.items()
                }
                for name, by_order in curves.items()
            },
        },
    )
    print(tables(summaries))
    print(f"{seconds:.0f} s; written: {options.output}.md, .png, .json")


if __name__ == "__main__":
    main()
