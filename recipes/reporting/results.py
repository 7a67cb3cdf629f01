"""Everything a report needs, collected into one JSON-able dictionary."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from recipes.data.references import reference_files
from recipes.evaluating.metrics import MetricOptions
from recipes.evaluating.output_probability import average_probability
from recipes.evaluating.scoring import compare, describe
from recipes.fairseq_commands.checkpoints import checkpoint_updates
from recipes.fairseq_commands.commands import display_path, has_gpu
from recipes.fairseq_commands.decoding import detokenised, generate_log
from recipes.fairseq_commands.training_log import read_training_log
from recipes.running.layout import START, Layout, training_log
from recipes.running.trained_arms import TrainedArm
from recipes.schema.flags import flag_value
from recipes.schema.recipe import Arm, Recipe
from recipes.text import read_lines

# Of results.json; 1 had no such key, nor statistics beside scores and length; 2 no repeats in a
# row, and no names of searches.
SCHEMA = 3
_FAIRSEQ_REFINEMENTS = 10  # where no --iter-decode-max-iter is given
_DISTRIBUTIONS = ("torch", "ve-fairseq", "fairseq", "sacrebleu", "sentencepiece", "babel")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries the figures depend on."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device() -> str:
    """What the training runs on, in words."""
    if has_gpu():
        import torch

        return torch.cuda.get_device_name()
    return f"CPU, {os.cpu_count()} cores"


def collect_results(
    recipe: Recipe,
    layout: Layout,
    decoded: Mapping[tuple[str, int, str], Path],
    commands: list[tuple[str, str]],
    lenpen: Mapping[tuple[str, int], float],
) -> dict[str, Any]:
    """Score all decodings and gather settings, times and curves.

    Args:
        decoded: detokenised file by (split, beam, system).
        commands: (stage, shell line) of everything that makes the results.
        lenpen: length penalty by (system, beam).
    """
    systems: dict[str, dict[str, Any]] = {}
    curves: dict[str, dict[str, list[Any]]] = {}
    for system in layout.systems:
        flags = layout.training(START).flags if system == START else recipe.arms[system].flags
        described = "the checkpoint all arms start from"
        systems[system] = {
            "description": described if system == START else recipe.arms[system].description,
            **({} if system == START else _identity(recipe.arms[system])),
            **_training(layout.save_dir(system), flags),
            "lenpen": {str(b): lenpen[system, b] for b in recipe.decoding.beams},
            "scores": {},
        }
        if system != START:
            curves[system] = read_training_log(layout.training_log(system)).curves()
    evaluation = recipe.evaluation
    options = MetricOptions.of_recipe(evaluation)
    signatures: dict[str, str] = {}
    randomization_signatures: dict[str, str] = {}
    reference_rates = {}
    reference_repeats = {}
    references = {}
    for split in recipe.data.splits[1:]:
        files = reference_files(recipe, layout.text_dir, split)
        references[split] = ", ".join(display_path(file.name) for file in files)
        lines = [read_lines(file) for file in files]
        for beam in recipe.decoding.beams:
            for baseline, group in _groups(layout.systems, systems, recipe.control).items():
                texts = {s: read_lines(decoded[split, beam, s]) for s in group}
                compared = compare(
                    texts,
                    lines,
                    baseline,
                    evaluation.metrics,
                    evaluation.bootstrap_samples,
                    evaluation.randomization_trials,
                    options,
                )
                bounds, smallest = evaluation.length_buckets, evaluation.smallest_bucket
                describe(compared, texts, lines, baseline, options, bounds, smallest)
                signatures.update(compared.signatures)
                randomization_signatures.update(compared.randomization_signatures)
                reference_rates[split] = compared.reference_repeated_ngram_rate
                reference_repeats[split] = compared.reference_consecutive_repeats
                for system, scores in compared.systems.items():
                    log = generate_log(decoded[split, beam, system])
                    scores.average_probability = average_probability(log)
                    by_split = systems[system]["scores"].setdefault(split, {})
                    by_split[str(beam)] = {**scores.as_dict(), "baseline": baseline}
    return {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "description": recipe.description.strip(),
        "languages": list(recipe.languages),
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "device": device(),
        "control": recipe.control,
        "selected": recipe.selected,
        "metrics": list(evaluation.metrics),
        "bootstrap_samples": evaluation.bootstrap_samples,
        "randomization_trials": evaluation.randomization_trials,
        "scored_text": references,
        "signatures": signatures,
        "randomization_signatures": randomization_signatures,
        "reference_repeated_ngram_rate": reference_rates,
        "reference_consecutive_repeats_per_100_tokens": reference_repeats,
        "searches": {str(beam): _search(recipe, beam) for beam in recipe.decoding.beams},
        "shared_flags": shlex.join(recipe.finetune.flags),
        "start_stages": [
            {"stage": stage, **_training(layout.work_dir / stage, training.flags)}
            for stage, training in layout.start_stages.items()
        ],
        "systems": systems,
        "curves": curves,
        "start_valid_bleu": _start_bleu(recipe, layout, decoded),
        "commands": [list(pair) for pair in commands],
    }


def _search(recipe: Recipe, beam: int) -> str:
    """How outputs were searched for, in words."""
    if recipe.task.iterative:
        flag = "--iter-decode-max-iter"
        refinements = int(flag_value(recipe.decoding.flags, flag) or _FAIRSEQ_REFINEMENTS)
        return f"up to {refinements + 1} passes" if refinements else "one pass"
    return "greedy" if beam == 1 else f"beam {beam}"


def _identity(arm: Arm) -> dict[str, Any]:
    """The arm that a system shares with those of other seeds, and its seed."""
    return {"arm": arm.arm, "seed": arm.seed} if isinstance(arm, TrainedArm) else {}


def _groups(
    names: Sequence[str], systems: Mapping[str, dict[str, Any]], control: str
) -> dict[str, list[str]]:
    """Systems by the baseline they are tested against: the control with the same seed.

    ``start``, and a seed that the control was not trained with, belong to the control itself.
    Every group begins with its baseline.
    """
    controls = {systems[name].get("seed"): name for name in names if _arm(systems, name) == control}
    groups: dict[str, list[str]] = {}
    for name in names:
        seed = None if name == START else systems[name].get("seed")
        baseline = controls.get(seed, control)
        group = groups.setdefault(baseline, [baseline])
        if name != baseline:
            group.append(name)
    return groups


def _arm(systems: Mapping[str, dict[str, Any]], name: str) -> str:
    return systems[name].get("arm", name)


def _training(save_dir: Path, flags: list[str]) -> dict[str, Any]:
    """What one fairseq-train did: its flags, updates and time for each update."""
    return {
        "flags": shlex.join(flags),
        "updates": checkpoint_updates(save_dir / "checkpoint_last.pt"),
        "seconds_per_update": read_training_log(training_log(save_dir)).seconds_per_update(),
    }


def _start_bleu(
    recipe: Recipe, layout: Layout, decoded: Mapping[tuple[str, int, str], Path]
) -> float | None:
    """Where the curves of valid BLEU begin: the start's greedy output scored as fairseq does
    during training, that is against the references put together from their pieces."""
    valid = decoded.get((recipe.data.valid, 1, START))
    if valid is None:
        return None
    reference = detokenised(generate_log(valid), layout.sentencepiece(recipe.target_lang), "T")
    scores = compare({START: read_lines(valid)}, [reference], metrics=["bleu"])
    return scores.systems[START].scores["bleu"].value
