"""A finished run as a report finds it: results.json, decoded text, logs; made in milliseconds."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipes.reporting.results import SCHEMA, paired_systems
from recipes.scoring.comparison import compare, describe
from recipes.scoring.metrics import MetricOptions, metric_facts
from recipes.text import read_lines, write_lines

SPLITS = ("valid", "test")
SYSTEMS = {  # system: (arm, seed, share of words lost)
    "start": ("start", 1, 0.3),
    "start.seed2": ("start", 2, 0.31),
    "cross_entropy": ("cross_entropy", 1, 0.25),
    "other": ("other", 1, 0.1),
    "third<b>": ("third<b>", 1, 0.2),
    "cross_entropy.seed2": ("cross_entropy", 2, 0.26),
    "other.seed2": ("other", 2, 0.12),
}
TRICKY = 'A <script>alert("1")</script> & a | bar.'


def make_run(folder: Path, data_dir: Path, beams: tuple[str, ...] = ("1", "5")) -> dict[str, Any]:
    """Write ``folder/work`` and ``folder/text``; returns the results."""
    references = {}
    lines = read_lines(data_dir / "train.en")
    for number, split in enumerate(SPLITS):
        references[split] = [TRICKY, *lines[60 * number : 60 * number + 59]]
        write_lines(folder / "text" / f"{split}.en", references[split])
        write_lines(folder / "text" / f"{split}.de", ["Quelle & <i>", *["Quelle"] * 59])
    results = _settings()
    rng = random.Random(7)
    for split in SPLITS:
        for beam in beams:
            texts = {}
            for system, (_, _, rate) in SYSTEMS.items():
                texts[system] = [_damaged(line, rate, rng) for line in references[split]]
                name = f"{split}.beam{beam}.lenpen1.en"
                write_lines(folder / "work" / "decoded" / system / name, texts[system])
            _score(results, texts, references[split], split, beam)
    path = folder / "work" / "results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    return results


def _damaged(line: str, rate: float, rng: random.Random) -> str:
    return " ".join(word for word in line.split() if rng.random() > rate) or "nothing"


def _settings() -> dict[str, Any]:
    curves = {
        "bleu": [[50, 100], [30.0, 32.5]],
        "expected_bleu": [[50, 100], [25.0, 26.0]],
        "reward_greedy": [[50, 100], [0.4, 0.5]],
        "reward": [[20, 40, 60], [0.3, 0.35, 0.4]],
        "entropy": [[20, 40, 60], [1.5, 1.25, 1.0]],
        "nll_loss": [[50, 100], [2.5, 2.4]],
        "length_ratio": [[50, 100], [0.9, 1.0]],
        "sample_length": [[50, 100], [11.0, 12.0]],
    }
    training = {
        "flags": "--criterion a",
        "updates": 400,
        "epochs": 4,
        "validations": 10,
        "checkpoint_update": 90,
        "seconds_per_update": 2.0,
        "seconds": 200.0,
    }
    stages = [{"stage": name, **training} for name in ("cross_entropy", "annealing")]
    return {
        "schema": SCHEMA,
        "recipe": "small",
        "description": TRICKY,
        "languages": ["de", "en"],
        "date": "2026-01-02",
        "versions": {"python": "3.11", "sacrebleu": "2.6.0"},
        "device": "CPU, 2 cores",
        "control": "cross_entropy",
        "baseline": "cross_entropy",
        "baselines": {"start": 30.5, "cross_entropy": 40.25},
        "selected": "other",
        "selection": "bleu",
        "metrics": metric_facts(["bleu", "chrf", "ter"]),
        "command": "python -m recipes run small",
        "text_sha256": {},
        "bootstrap_samples": 40,
        "randomization_trials": 40,
        "scored_text": {split: f"{split}.en" for split in SPLITS},
        "signatures": {},
        "randomization_signatures": {},
        "reference_consecutive_repeats_per_100_tokens": {},
        "searches": {"1": "greedy", "5": "beam 5"},
        "shared_flags": "--lr 0.1 --eval-bleu-args '{\"beam\": 1}'",
        "systems": {
            system: {
                "arm": arm,
                "seed": seed,
                "start": "start" if seed == 1 else "start.seed2",
                "description": f"what {arm} is",
                **({"stages": stages} if arm == "start" else {**training, "updates": 100}),
                "lenpen": {"1": 1.0, "5": 1.0},
                "scores": {},
            }
            for system, (arm, seed, _) in SYSTEMS.items()
        },
        "set_aside": ["other.old1"],
        "curves": {
            system: curves if arm == "other" else {"bleu": curves["bleu"]}
            for system, (arm, _, _) in SYSTEMS.items()
            if arm != "start"
        },
        "start_valid_bleu": {"start": 29.0, "start.seed2": 28.0},
        "commands": [
            ["preprocess", "fairseq-preprocess --x '<y>'"],
            ["arm other", "fairseq-train"],
        ],
    }


def _score(
    results: dict[str, Any],
    texts: dict[str, list[str]],
    reference: list[str],
    split: str,
    beam: str,
) -> None:
    """Each seed against the control of that seed, as the evaluation does."""
    for baseline, names in paired_systems(results["systems"], results["baseline"]).items():
        group = {name: texts[name] for name in names}
        options = MetricOptions(bootstrap_samples=40, randomization_trials=40, smallest_bucket=10)
        compared = compare(group, [reference], baseline, options)
        describe(compared, group, [reference], baseline, options)
        results["signatures"].update(compared.signatures)
        results["randomization_signatures"].update(compared.randomization_signatures)
        repeats = results["reference_consecutive_repeats_per_100_tokens"]
        repeats[split] = compared.reference_consecutive_repeats_per_100_tokens
        for system, scores in compared.systems.items():
            scores.average_probability = 0.75
            by_split = results["systems"][system]["scores"].setdefault(split, {})
            by_split[beam] = {**asdict(scores), "baseline": baseline}


def of_one_seed(results: dict[str, Any]) -> dict[str, Any]:
    """The same with the seed of the recipe alone."""
    found = json.loads(json.dumps(results))
    for part in ("systems", "curves", "start_valid_bleu"):
        found[part] = {s: v for s, v in found[part].items() if ".seed" not in s}
    return found
