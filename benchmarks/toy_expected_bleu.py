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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.report import environment, markdown_table, write_by_rename, write_json, write_text
from criterions import (
    bleu,
    bleu_from_statistics,
    expected_statistics,
    monte_carlo_bleu,
    reference_probabilities,
)

VALUES = ("paper", "exact", "lower", "upper")
SMOOTHING = "none"
# Rounding of float64 probabilities is far below this; a bound "lies above" only beyond it.
RELATIVE_MARGIN = 1e-9


@dataclass(frozen=True)
class Setting:
    """One version of the experiment.

    ``sentences`` per problem, ``vocab`` words, ``reference_lengths`` (shortest, longest) tokens
    drawn from ``reference_words`` words (None: the whole vocabulary), as many rows of logits as
    the reference has tokens; ``maximise`` the ``bound`` or its ``log``; ``literature``: final
    values of the authors' run for N = 1..4, if they published it.
    """

    name: str
    title: str
    sentences: int = 1
    vocab: int = 10_000
    reference_lengths: tuple[int, int] = (10, 10)
    reference_words: int | None = None
    maximise: str = "bound"
    literature: tuple[float, ...] | None = None


SETTINGS = (
    Setting(
        "single",
        "One sentence, 10,000 words, reference of ten tokens",
        literature=(1.0, 0.7071, 0.7757, 0.7260),
    ),
    Setting(
        "batched",
        "Two sentences, 20,000 words, references of 8 to 10 tokens, corpus level",
        sentences=2,
        vocab=20_000,
        reference_lengths=(8, 10),
    ),
    Setting(
        "log",
        "One sentence, the logarithm of the bound maximised instead of the bound",
        maximise="log",
    ),
    Setting(
        "repeated",
        "One sentence, reference of ten tokens out of three words",
        reference_words=3,
    ),
)


@dataclass(frozen=True)
class Problems:
    """Independent copies of a setting, one a seed, side by side in one tensor.

    ``logits`` [seeds * sentences, tgt_len, vocab], ``references`` [seeds * sentences, ref_len],
    ``lengths`` [seeds * sentences] of references and candidates alike.
    """

    logits: Tensor
    references: Tensor
    lengths: Tensor
    seeds: int

    def probabilities(self) -> Tensor:
        """``[seeds * sentences, tgt_len, ref_len]``, with gradient."""
        return reference_probabilities(self.logits, self.references)

    def scores(self, p_ref: Tensor, value: str, max_order: int) -> Tensor:
        """``[seeds]``: ``expected_bleu`` at corpus level of each seed's sentences."""
        statistics = expected_statistics(
            p_ref,
            self.references,
            value=value,
            max_order=max_order,
            lengths=self.lengths,
            reference_lengths=self.lengths,
        )
        by_seed = [item.unflatten(0, (self.seeds, -1)).sum(1) for item in statistics]
        return bleu_from_statistics(*by_seed, smoothing=SMOOTHING)

    def sampled_scores(
        self, p_ref: Tensor, max_order: int, samples: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """``[seeds]`` means and standard errors of BLEU of candidates drawn from the rows."""
        options = {
            "samples": samples,
            "max_order": max_order,
            "smoothing": SMOOTHING,
            "generator": generator,
        }
        if len(self.references) == self.seeds:  # a corpus of one sentence
            return monte_carlo_bleu(
                p_ref,
                self.references,
                lengths=self.lengths,
                reference_lengths=self.lengths,
                level="sentence",
                **options,
            )
        sampled = [
            monte_carlo_bleu(
                rows, references, lengths=lengths, reference_lengths=lengths, **options
            )
            for rows, references, lengths in self._by_seed(p_ref)
        ]
        means, errors = zip(*sampled, strict=True)
        return torch.stack(means), torch.stack(errors)

    def argmax_scores(self, max_order: int) -> Tensor:
        """``[seeds]``: BLEU of the most probable word of every row."""
        scores = [
            bleu(
                tokens,
                references,
                lengths=lengths,
                reference_lengths=lengths,
                max_order=max_order,
                smoothing=SMOOTHING,
            )
            for tokens, references, lengths in self._by_seed(self.logits.detach().argmax(-1))
        ]
        return torch.stack(scores)

    def _by_seed(self, candidates: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        tensors = (candidates, self.references, self.lengths)
        return zip(*(tensor.chunk(self.seeds) for tensor in tensors), strict=True)


def draw_problems(setting: Setting, seeds: int) -> Problems:
    """Logits from a standard normal law; reference lengths and tokens uniform."""
    shortest, longest = setting.reference_lengths
    logits, references, lengths = [], [], []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        shape = (setting.sentences, longest)
        if setting.reference_words is None:
            references.append(torch.randint(setting.vocab, shape, generator=generator))
        else:
            words = torch.randperm(setting.vocab, generator=generator)[: setting.reference_words]
            references.append(words[torch.randint(len(words), shape, generator=generator)])
        lengths.append(
            torch.randint(shortest, longest + 1, (setting.sentences,), generator=generator)
        )
        logits.append(torch.randn(*shape, setting.vocab, generator=generator))
    return Problems(
        torch.cat(logits).requires_grad_(), torch.cat(references), torch.cat(lengths), seeds
    )


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
    """Curves ``[steps + 1, seeds]`` by name, the first row before any step."""
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
        optimiser.step()
    return {name: np.array(values) for name, values in curves.items()}


def summary(curves: dict[str, np.ndarray]) -> dict[str, float]:
    """Final values over the seeds, and in which share of the steps the bound lies above."""
    paper, exact = curves["paper"], curves["exact"]
    seen = curves["sampled"] > 0
    above_sampled = paper > curves["sampled"] + 2 * curves["sampled_error"]
    final = {
        f"final_{name}": float(values[-1].mean())
        for name, values in curves.items()
        if name != "sampled_error"
    }
    seeds = paper.shape[1]
    return {
        **final,
        "final_sampled_error": float(np.sqrt((curves["sampled_error"][-1] ** 2).sum()) / seeds),
        "final_paper_min": float(paper[-1].min()),
        "final_paper_max": float(paper[-1].max()),
        "share_above_exact": float((paper > exact * (1 + RELATIVE_MARGIN)).mean()),
        "share_above_sampled": float(above_sampled.mean()),
        "share_sampled_positive": float(seen.mean()),
        "share_above_sampled_where_positive": float(
            above_sampled[seen].mean() if seen.any() else np.nan
        ),
        "share_lower_above_exact": float((curves["lower"] > exact * (1 + RELATIVE_MARGIN)).mean()),
        "share_exact_above_upper": float((exact > curves["upper"] * (1 + RELATIVE_MARGIN)).mean()),
    }


def plot(results: dict[str, dict[int, dict[str, np.ndarray]]], path: Path) -> None:
    """One row a setting, one column an order; lines are means over the seeds."""
    styles = {
        "upper": ("upper bound", "C3", ":"),
        "exact": ("exact expectation", "C0", "-"),
        "paper": ("published bound", "C1", "--"),
        "lower": ("lower bound", "C2", ":"),
        "sampled": ("sampled BLEU", "k", "-"),
        "argmax": ("BLEU of the arg max", "0.6", "-"),
    }
    orders = sorted(next(iter(results.values())))
    figure, axes = plt.subplots(
        len(results),
        len(orders),
        figsize=(3.3 * len(orders), 2.6 * len(results)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    titles = {setting.name: setting.title for setting in SETTINGS}
    for row, (name, by_order) in zip(axes, results.items(), strict=True):
        for axis, order in zip(row, orders, strict=True):
            curves = by_order[order]
            for curve, (label, colour, line) in styles.items():
                mean = curves[curve].mean(axis=1)
                axis.plot(mean, line, color=colour, label=label, linewidth=1.2)
            error = np.sqrt((curves["sampled_error"] ** 2).sum(axis=1)) / curves["paper"].shape[1]
            mean = curves["sampled"].mean(axis=1)
            axis.fill_between(
                range(len(mean)), mean - 2 * error, mean + 2 * error, color="k", alpha=0.2
            )
            axis.set_title(f"{name}, N = {order}", fontsize=9)
            axis.grid(alpha=0.3)
        row[0].set_ylabel("BLEU, unsmoothed")
        row[0].annotate(
            titles[name], (0, 1.16), xycoords="axes fraction", fontsize=9, fontweight="bold"
        )
    for axis in axes[-1]:
        axis.set_xlabel("step")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
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
        header += ["sampled BLEU", "BLEU of arg max", "above exact", "above sampled", "same, seen"]
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
            row.append(percent(result["share_above_sampled"]))
            row.append(percent(result["share_above_sampled_where_positive"]))
            if setting.literature:
                row.append(f"{setting.literature[order - 1]:.4f}")
            rows.append(row)
        parts.append(f"## {setting.title} (`{setting.name}`)\n\n{markdown_table(header, rows)}\n")
    return "\n".join(parts)


EXPLANATION = """\
# The toy experiment of the differentiable BLEU bound

Written by `{command}`; the setting is that of Zhukov, Golikov and Kretov (arXiv 1712.04708).
The parameters are rows of logits, one row a token, drawn from a standard normal law; the
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
  the exact value of the same formula.
* **above sampled**: the same, larger than sampled BLEU by more than two standard errors.
  Without smoothing a sample of BLEU is 0 unless it has an N-gram right, so early steps see only
  zeros, with a standard error of 0, and any positive number counts as above.
* **same, seen**: only the steps where a sample was not 0 ({seen} of them over all settings).
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
                        curve: [float(f"{x:.6g}") for x in values.mean(axis=1)]
                        for curve, values in result.items()
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
