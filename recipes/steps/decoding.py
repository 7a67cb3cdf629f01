"""fairseq-generate for every arm, split and beam, then the scores."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path

from recipes.data.origins import reference_files
from recipes.errors import RecipeError
from recipes.fairseq_commands.commands import display_path, generate_command
from recipes.fairseq_commands.decoding import decode, detokenised, generate_log, generation_progress
from recipes.reporting.results import SCHEMA, chosen_scores, collect_results
from recipes.running.layout import training_log
from recipes.running.run import Run, shell_with_log
from recipes.running.side_by_side import side_by_side
from recipes.running.stages import Stage
from recipes.scoring.metrics import find_metric, metric_file
from recipes.text import read_lines, write_lines, write_text

Lenpen = dict[tuple[str, int], float]


def decode_all(run: Run) -> Lenpen:
    """Decode valid with every candidate length penalty, then the test sets with the best one.

    Returns the length penalty by (system, beam).
    """
    tasks = {f"decode {name}": partial(_decode_system, system=name) for name in run.layout.systems}
    found = side_by_side(run, tasks)
    return {key: value for lenpen in found.values() for key, value in lenpen.items()}


def _decode_system(run: Run, system: str) -> Lenpen:
    data, candidates = run.recipe.data, run.recipe.decoding.lenpen
    chosen: Lenpen = {}
    for beam in run.recipe.decoding.beams:
        # Greedy search keeps one hypothesis, so that there are no lengths to weigh.
        tried = candidates if beam > 1 else [1.0]
        for lenpen in tried:
            decode_split(run, system, data.valid, beam, lenpen)
        if len(tried) > 1 and not _decoded(run, system, beam, tried):
            run.say(f"{system} beam {beam}: lenpen is chosen on valid, then the test sets follow")
            chosen[system, beam] = tried[0]
            continue
        chosen[system, beam] = best_lenpen(run, system, beam, tried)
        for split in data.tests:
            decode_split(run, system, split, beam, chosen[system, beam])
    return chosen


def _decoded(run: Run, system: str, beam: int, candidates: list[float]) -> bool:
    """Whether the valid split is decoded with every candidate; in a dry run it may not be."""
    valid = run.recipe.data.valid
    outputs = [run.layout.hypotheses(system, valid, beam, lenpen) for lenpen in candidates]
    return all(path.exists() and path not in run.renewed for path in outputs)


def best_lenpen(run: Run, system: str, beam: int, candidates: list[float]) -> float:
    """The candidate with the best score on valid, as the evaluation has it."""
    if len(candidates) == 1:
        return candidates[0]
    valid = run.recipe.data.valid
    outputs = {c: run.layout.hypotheses(system, valid, beam, c) for c in candidates}
    scores = chosen_scores(run.layout, outputs)
    metric = find_metric(run.recipe.evaluation.selected_by)
    best = metric.best(scores)
    shown = ", ".join(f"{c:g}: {scores[c]:.{metric.digits}f}" for c in candidates)
    say = f"  {system} beam {beam}: valid {metric.title} by lenpen {{{shown}}}, takes {best:g}"
    run.say(say)
    return best


def decode_stage_name(run: Run, system: str, split: str, beam: int, lenpen: float) -> str:
    """Name of the stage of one decoding."""
    name = f"decode {system} {split}" + f" beam {beam}" * (not run.recipe.task.iterative)
    return name + f" lenpen {lenpen:g}" * (lenpen != 1)


def decode_split(run: Run, system: str, split: str, beam: int, lenpen: float) -> None:
    """fairseq-generate of one split with one system."""
    recipe, layout = run.recipe, run.layout
    output = layout.hypotheses(system, split, beam, lenpen)
    checkpoint = layout.checkpoint(system)
    search = (layout.subset(split), beam, lenpen, recipe.decoding.flags, recipe.fp16, recipe.task)
    command = run.launched(
        generate_command(checkpoint, layout.binarized, recipe.languages, *search)
    )
    name = decode_stage_name(run, system, split, beam, lenpen)
    model = layout.sentencepiece(recipe.target_lang)

    def generate() -> None:
        lines = len(read_lines(layout.text(split, recipe.target_lang)))
        progress = generation_progress(run.say, lines)
        decode(command.argv(), output, model, name, lines, progress, run.launch)

    source = layout.binary(split, recipe.source_lang)
    inputs = {"checkpoint": checkpoint, source.name: source, model.name: model}
    inputs |= layout.dictionaries
    record = output.with_name(f"{output.name}.stage.json")
    log = generate_log(output)
    if run.take_over and not run.dry_run and not record.exists() and log.is_file():
        _detokenise(run, split, output, model)
    shell = shell_with_log(command, log)
    run.run_stage(Stage(name, record, [output, log], {}, generate, inputs, command, shell=shell))


def _detokenise(run: Run, split: str, output: Path, model: Path) -> None:
    """Take over what fairseq-generate printed when it was run by hand, if it is complete."""
    expected = len(read_lines(run.layout.text(split, run.recipe.target_lang)))
    try:
        hypotheses = detokenised(generate_log(output), model)
    except RecipeError as error:
        run.say(f"  decoded again: {error}")
        return
    if len(hypotheses) == expected:
        write_lines(output, hypotheses)


def evaluate(run: Run, lenpen: Lenpen) -> None:
    """Score every decoding against the original text; write results.json."""
    recipe, layout = run.recipe, run.layout
    decoded = {
        (split, beam, system): layout.hypotheses(system, split, beam, lenpen[system, beam])
        for split in recipe.data.splits[1:]
        for beam in recipe.decoding.beams
        for system in layout.systems
    }

    def score() -> None:
        command = shlex.join(["python", "-m", "recipes", *map(display_path, run.arguments)])
        results = collect_results(layout, decoded, run.commands, lenpen, command)
        write_text(layout.results, json.dumps(results, indent=1, ensure_ascii=False) + "\n")

    inputs = {"/".join(map(str, key)): path for key, path in decoded.items()}
    inputs.update({f"{role} log": generate_log(path) for role, path in inputs.items()})
    for split in recipe.data.splits[1:]:
        for number, path in enumerate(reference_files(recipe, layout.text_dir, split)):
            inputs[f"reference {split}" + f" {number}" * (number > 0)] = path
    for name in recipe.evaluation.metrics:
        if file := metric_file(name):
            inputs[f"metric {name}"] = file
    logs = {arm: training_log(layout.save_dir(arm)) for arm in recipe.arms}
    for start in layout.starts:
        for stage in layout.start_stages(start):
            logs[f"{stage} stage"] = training_log(layout.work_dir / stage)
    inputs.update({f"log {name}": log for name, log in logs.items() if log.is_file()})
    settings = {
        "schema": SCHEMA,
        **asdict(recipe.evaluation),
        "control": recipe.control,
        "description": recipe.description,
        "arms": {name: [arm.description, arm.baseline] for name, arm in recipe.arms.items()},
    }
    record = layout.record("results")
    shell = [run.shell_line()]
    run.run_stage(Stage("evaluate", record, [layout.results], settings, score, inputs, shell=shell))
