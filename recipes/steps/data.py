"""From text to binarized data: corpus, SentencePiece, segmented files, fairseq-preprocess."""

from __future__ import annotations

import shlex
import shutil
from itertools import chain

from recipes.corpora import cldr
from recipes.data.prepare import Preparation
from recipes.data.segmentation import load_sentencepiece, segment_file, train_sentencepiece
from recipes.fairseq_commands.commands import preprocess_command
from recipes.running.run import Run
from recipes.running.stages import Stage
from recipes.schema.recipe import Corpus
from recipes.text import check_parallel, write_lines


def prepare_text(run: Run) -> None:
    """Make the corpus, or get and clean the text, or check the files in the data folder."""
    recipe, layout = run.recipe, run.layout
    if recipe.data.corpus is not None:
        _make_corpus(run, recipe.data.corpus)
    elif layout.text_dir != run.data_dir:
        _prepare(run)
    if run.dry_run and layout.text_dir != run.data_dir:
        return
    run.say(f"[{run.elapsed()}] text in {layout.text_dir}")
    for split in recipe.data.splits:
        count = check_parallel(layout.text_dir, split, recipe.languages)
        run.say(f"  {split}: {count} pairs")


def _prepare(run: Run) -> None:
    layout = run.layout
    preparation = Preparation(run.recipe, layout.text_dir, run.data_dir, run.cache_dir, run.say)
    details = preparation.details()
    if run.dry_run:  # prints commands alone otherwise
        for line in details:
            run.say(f"  {line}")
    outputs = preparation.outputs()

    def make() -> None:
        preparation.make()
        outputs.extend(preparation.references)

    named = chain.from_iterable(run.recipe.data.references.values())
    run.check_inside(layout.text_dir / name for name in named)
    made = layout.record("text"), outputs, preparation.settings(), make, preparation.inputs()
    run.run_stage(Stage("text", *made, details=details))


def _make_corpus(run: Run, corpus: Corpus) -> None:
    recipe, layout = run.recipe, run.layout

    def make() -> None:
        for name, lines in cldr.make(recipe, corpus.options).items():
            write_lines(layout.text_dir / name, lines)

    files = [layout.text(*side) for side in layout.sides]
    settings = {
        "corpus": corpus.name,
        "options": corpus.options,
        "splits": recipe.data.splits,
        "source": cldr.version(),
    }
    run.run_stage(Stage("corpus", layout.record("text"), files, settings, make))


def segment(run: Run) -> None:
    """Train SentencePiece on the training text, then segment all of the text."""
    recipe, layout = run.recipe, run.layout
    joint = recipe.sentencepiece.joint
    for languages in [recipe.languages] if joint else [(lang,) for lang in recipe.languages]:
        _train_model(run, languages)

    def encode() -> None:
        models = {lang: load_sentencepiece(layout.sentencepiece(lang)) for lang in recipe.languages}
        for split, lang in layout.sides:
            output = layout.segmented / f"{split}.{lang}"
            segment_file(models[lang], layout.text(split, lang), output)

    inputs = {f"{split}.{lang}": layout.text(split, lang) for split, lang in layout.sides}
    outputs = [layout.segmented / name for name in inputs]
    inputs |= {model.name: model for model in map(layout.sentencepiece, recipe.languages)}
    run.run_stage(Stage("segment", layout.record("segmented"), outputs, {}, encode, inputs))


def _train_model(run: Run, languages: tuple[str, ...]) -> None:
    recipe, layout = run.recipe, run.layout
    model = layout.sentencepiece(languages[0])
    inputs = {f"train.{lang}": layout.text(recipe.data.train, lang) for lang in languages}

    def train() -> None:
        train_sentencepiece(inputs.values(), model, recipe.sentencepiece)

    # What is not set does not count, so that a new setting leaves finished models valid.
    settings = {k: v for k, v in vars(recipe.sentencepiece).items() if v is not None}
    record = layout.record(model.stem)
    run.run_stage(Stage(model.stem, record, [model], settings, train, inputs))


def preprocess(run: Run) -> None:
    """fairseq-preprocess; it refuses to overwrite dictionaries, so an old folder goes first."""
    recipe, layout = run.recipe, run.layout
    command = preprocess_command(recipe, layout.segmented, layout.binarized)

    def binarize() -> None:
        shutil.rmtree(layout.binarized, ignore_errors=True)
        run.launch(command.argv(), run.work_dir / "logs" / "preprocess.log", "preprocess")

    names = [f"{split}.{lang}" for split, lang in layout.sides]
    inputs = {f"segmented/{name}": layout.segmented / name for name in names}
    outputs = [*layout.dictionaries.values(), *(layout.binary(*side) for side in layout.sides)]
    shell = [shlex.join(["rm", "-rf", str(layout.binarized)])] * layout.binarized.exists()
    files = layout.record("binarized"), outputs
    shell.append(str(command))
    run.run_stage(Stage("preprocess", *files, {}, binarize, inputs, command, shell=shell))
