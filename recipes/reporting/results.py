"""Everything a report needs, collected into one JSON-able dictionary."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from recipes.data.origins import reference_files
from recipes.fairseq_commands.checkpoints import LAST, checkpoint_updates
from recipes.fairseq_commands.commands import has_gpu
from recipes.fairseq_commands.decoding import detokenised, generate_log
from recipes.fairseq_commands.training_log import read_training_log
from recipes.running.layout import Layout, training_log
from recipes.running.trained_arms import CONSTANT_REWARD, START, seed_of
from recipes.schema.flags import flag_value
from recipes.schema.recipe import Recipe
from recipes.scoring.comparison import compare, evaluate
from recipes.scoring.metrics import MetricOptions, find_metric, metric_facts
from recipes.text import file_hash, read_lines

SCHEMA = 5  # of results.json
_COMMON = (
    *("scored_text", "signatures", "randomization_signatures"),
    "reference_consecutive_repeats_per_100_tokens",
)
_FAIRSEQ_REFINEMENTS = 10  # where no --iter-decode-max-iter is given
_DISTRIBUTIONS = ("torch", "ve-fairseq", "fairseq", "sacrebleu", "sentencepiece", "babel")
Decoded = Mapping[tuple[str, int, str], Path]  # detokenised text by split, beam, system
Lenpen = Mapping[tuple[str, int], float]  # by system, beam
K = TypeVar("K")


def chosen_scores(layout: Layout, outputs: Mapping[K, Path]) -> dict[K, float]:
    """Scores on valid, by the metric that the recipe chooses by, as the evaluation has them.

    Args:
        outputs: detokenised translations of valid.
    """
    evaluation = layout.recipe.evaluation
    lines, sources = _references(layout, layout.recipe.data.valid)
    name = evaluation.selected_by
    options = MetricOptions(**{**vars(evaluation), "metrics": [name]})
    texts = {str(key): read_lines(path) for key, path in outputs.items()}
    scored = compare(texts, lines, None, options, sources).systems
    return {key: scored[str(key)].scores[name].value for key in outputs}


def _references(layout: Layout, split: str) -> tuple[list[list[str]], list[str]]:
    """Lines of each reference set, and the sources."""
    files = reference_files(layout.recipe, layout.text_dir, split)
    return [read_lines(f) for f in files], read_lines(layout.text(split, layout.recipe.source_lang))


def collect_results(
    layout: Layout, decoded: Decoded, commands: list[tuple[str, str]], lenpen: Lenpen, command: str
) -> dict[str, Any]:
    """Score all decodings and gather settings, times and curves.

    Args:
        commands: (stage, shell line) of everything that makes the results.
        command: the shell line of the whole run.
    """
    recipe, evaluation = layout.recipe, layout.recipe.evaluation
    systems = _systems(layout, lenpen)
    means = _valid_means(layout, decoded, systems)
    metric = find_metric(evaluation.selected_by)
    baselines = [START, recipe.control, *(arm.arm for arm in recipe.arms.values() if arm.baseline)]
    candidates = {arm: mean for arm, mean in means.items() if arm in baselines}
    others = {
        arm: mean
        for arm, mean in means.items()
        if arm not in baselines and not arm.endswith(CONSTANT_REWARD)
    }
    best = metric.best(candidates)
    device = f"CPU, {os.cpu_count()} cores"
    if has_gpu():
        import torch

        device = torch.cuda.get_device_name()
    logs = {arm: training_log(layout.save_dir(arm)) for arm in systems if arm in recipe.arms}
    texts = [layout.text(*side) for side in layout.sides]
    for split in recipe.data.splits[1:]:
        texts += reference_files(recipe, layout.text_dir, split)
    found = ((name, metadata.distributions(name=name)) for name in _DISTRIBUTIONS)
    return {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "description": recipe.description.strip(),
        "command": command,
        "languages": list(recipe.languages),
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{name: package.version for name, packages in found for package in packages},
        },
        "device": device,
        "control": recipe.control,
        "baseline": best,
        "baselines": candidates,
        "selected": metric.best(others) if others else None,
        "selection": evaluation.selected_by,
        "metrics": metric_facts(evaluation.metrics),
        "bootstrap_samples": evaluation.bootstrap_samples,
        "randomization_trials": evaluation.randomization_trials,
        **_scores(layout, decoded, systems, best),
        "text_sha256": {
            str(f.relative_to(layout.text_dir)): file_hash(f) for f in texts if f.is_file()
        },
        "searches": {str(beam): _search(recipe, beam) for beam in recipe.decoding.beams},
        "shared_flags": shlex.join(recipe.finetune.flags),
        "systems": systems,
        "set_aside": sorted(path.name for path in layout.work_dir.glob("arms/*.old*")),
        "curves": {arm: read_training_log(log).curves() for arm, log in logs.items()},
        "start_valid_bleu": {start: _start_bleu(layout, decoded, start) for start in layout.starts},
        "commands": [list(pair) for pair in commands],
    }


def _scores(
    layout: Layout, decoded: Decoded, systems: dict[str, dict[str, Any]], best: str
) -> dict[str, Any]:
    """Add the scores to ``systems``; returns what they have in common."""
    recipe = layout.recipe
    common: dict[str, dict[str, Any]] = {key: {} for key in _COMMON}
    for split in recipe.data.splits[1:]:
        files = reference_files(recipe, layout.text_dir, split)
        names = (str(file.relative_to(layout.text_dir)) for file in files)
        common["scored_text"][split] = ", ".join(names)
        lines, sources = _references(layout, split)
        for beam in recipe.decoding.beams:
            for baseline, group in paired_systems(systems, best).items():
                paths = {system: decoded[split, beam, system] for system in group}
                texts = {system: read_lines(path) for system, path in paths.items()}
                logs = {system: generate_log(path) for system, path in paths.items()}
                options = MetricOptions(**vars(recipe.evaluation))
                found = evaluate(texts, lines, baseline, options, sources, logs)
                common["signatures"].update(found.signatures)
                common["randomization_signatures"].update(found.randomization_signatures)
                common[_COMMON[-1]][split] = getattr(found, _COMMON[-1])
                for system, scores in found.systems.items():
                    by_split = systems[system]["scores"].setdefault(split, {})
                    by_split[str(beam)] = {**asdict(scores), "baseline": baseline}
    return common


def _search(recipe: Recipe, beam: int) -> str:
    """How outputs were searched for, in words."""
    if recipe.task.iterative:
        flag = "--iter-decode-max-iter"
        refinements = int(flag_value(recipe.decoding.flags, flag) or _FAIRSEQ_REFINEMENTS)
        return f"up to {refinements + 1} passes" if refinements else "one pass"
    return "greedy" if beam == 1 else f"beam {beam}"


def _systems(layout: Layout, lenpen: Lenpen) -> dict[str, dict[str, Any]]:
    """What is known of every system before its output is scored."""
    found: dict[str, dict[str, Any]] = {}
    for system in layout.systems:
        known: dict[str, Any]
        if system in layout.starts:
            trainings = layout.start_stages(system)
            known = {
                "description": "the checkpoint all arms start from",
                "arm": START,
                "seed": seed_of(next(iter(trainings.values())).flags),
                "start": system,
                "stages": [
                    {"stage": name, **_training(layout.work_dir / name, t.checkpoint_name, t.flags)}
                    for name, t in trainings.items()
                ],
            }
        else:
            arm, checkpoint = layout.recipe.arms[system], layout.checkpoint(system)
            known = {key: getattr(arm, key) for key in ("description", "arm", "seed", "start")}
            known |= _training(checkpoint.parent, checkpoint.name, arm.flags)
        penalties = {str(beam): lenpen[system, beam] for beam in layout.recipe.decoding.beams}
        found[system] = {**known, "lenpen": penalties, "scores": {}}
    return found


def _training(save_dir: Path, checkpoint: str, flags: list[str]) -> dict[str, Any]:
    """What one fairseq-train did: its flags, updates and time, and the checkpoint it is used by."""
    log = read_training_log(training_log(save_dir))
    updates, each = checkpoint_updates(save_dir / LAST), log.seconds_per_update()
    return {
        "flags": shlex.join(flags),
        "updates": updates,
        "epochs": len(log.epochs),
        "validations": len(log.valid),
        "checkpoint_update": checkpoint_updates(save_dir / checkpoint),
        "seconds_per_update": each,
        "seconds": None if each is None else each * updates,
    }


def _valid_means(
    layout: Layout, decoded: Decoded, systems: Mapping[str, dict[str, Any]]
) -> dict[str, float]:
    """The score on valid of every arm, its mean over searches and seeds."""
    scores: dict[str, list[float]] = {}
    for beam in layout.recipe.decoding.beams:
        outputs = {name: decoded[layout.recipe.data.valid, beam, name] for name in systems}
        for name, value in chosen_scores(layout, outputs).items():
            scores.setdefault(systems[name]["arm"], []).append(value)
    return {arm: statistics.fmean(values) for arm, values in scores.items()}


def paired_systems(systems: Mapping[str, dict[str, Any]], baseline: str) -> dict[str, list[str]]:
    """Systems by the baseline that they are compared with, which begins its group.

    It is the baseline arm's system with the same seed or, where one of both is a start, that with
    the same start.
    """
    mine = {name: system for name, system in systems.items() if system["arm"] == baseline}
    groups = {name: [name] for name in mine}
    for name, system in systems.items():
        key = "start" if START in (baseline, system["arm"]) else "seed"
        same = (other for other, its in mine.items() if its[key] == system[key])
        group = groups[next(same, next(iter(mine)))]
        if name not in group:
            group.append(name)
    return groups


def _start_bleu(layout: Layout, decoded: Decoded, start: str) -> float | None:
    """The start's greedy output on valid scored as fairseq does during training, that is against
    the references put together from their pieces: where the curves begin."""
    valid = decoded.get((layout.recipe.data.valid, 1, start))
    if valid is None:
        return None
    model = layout.sentencepiece(layout.recipe.target_lang)
    reference = detokenised(generate_log(valid), model, "T")
    scores = compare({start: read_lines(valid)}, [reference], None, MetricOptions(["bleu"]))
    return scores.systems[start].scores["bleu"].value
