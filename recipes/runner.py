"""The stages of a recipe, in order, from text to report."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes import commands, corpora
from recipes.checkpoints import average_checkpoints, checkpoint_updates, last_checkpoints
from recipes.config import Recipe, flag_value
from recipes.decoding import decode, generate_log
from recipes.errors import RecipeError
from recipes.evaluation import compare
from recipes.layout import START, Layout
from recipes.process import run_command
from recipes.progress import generation_progress, training_progress
from recipes.results import collect_results
from recipes.segmentation import encode_lines, load_sentencepiece, train_sentencepiece
from recipes.stages import Stage, StageRunner
from recipes.text import check_parallel, read_lines, write_lines, write_text


class RecipeRunner:
    """Runs ``recipe`` in ``work_dir``.

    Args:
        data_dir: folder of the text files, for recipes that do not make their corpus.
        say: prints one line.
        dry_run: print the commands, run nothing.
        redo: stages to redo although nothing changed.
    """

    def __init__(
        self,
        recipe: Recipe,
        work_dir: Path,
        data_dir: Path | None = None,
        say: Callable[[str], None] = print,
        dry_run: bool = False,
        redo: tuple[str, ...] = (),
    ) -> None:
        if recipe.data.corpus is None and data_dir is None:
            raise RecipeError(
                f"recipe {recipe.name}: give the folder of its text files with --data-dir "
                f"({', '.join(f'{s}.{lang}' for s in recipe.data.splits for lang in recipe.languages)})"
            )
        made = recipe.data.corpus is not None
        self.recipe = recipe
        self.work_dir = work_dir
        self.layout = Layout(recipe, work_dir, work_dir / "text" if made else Path(data_dir or ""))
        self.say = say
        self.dry_run = dry_run
        self.stages = StageRunner(say, dry_run, redo)
        self.commands: list[tuple[str, str]] = []
        self._lenpen: dict[tuple[str, int], float] = {}
        self._lock: tuple[int, ...] = ()

    def run(self) -> None:
        """Run every stage that is not up to date."""
        with self._locked():
            self.prepare_text()
            self.segment()
            self.preprocess()
            self.train(START)
            for arm in self.recipe.arms:
                self.train(arm)
            self.check_updates()
            self.decode_all()
            self.evaluate()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the work-dir's lock; fairseq processes inherit it, so it outlives a killed run."""
        if self.dry_run:
            yield
            return
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with open(self.work_dir / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RecipeError(
                    f"{self.work_dir} is in use by another run, or by a fairseq process that a "
                    "killed run left behind; wait for it or end it, then start again"
                ) from None
            self._lock = (file.fileno(),)
            yield
            self._lock = ()

    def prepare_text(self) -> None:
        """Make the corpus, or check the files in the data folder."""
        recipe, layout = self.recipe, self.layout
        corpus = recipe.data.corpus
        if corpus is not None:
            generator = corpora.find(corpus.name)

            def make() -> None:
                for name, lines in generator.make(recipe, corpus.options).items():
                    write_lines(layout.text_dir / name, lines)

            self.stages.run(
                Stage(
                    "corpus",
                    layout.record("text"),
                    [layout.text(s, lang) for s in recipe.data.splits for lang in recipe.languages],
                    {
                        "corpus": corpus.name,
                        "options": corpus.options,
                        "splits": recipe.data.splits,
                        "source": generator.version(),
                    },
                    make,
                )
            )
            if self.dry_run:
                return
        self.say(f"[{self.stages.elapsed()}] text in {layout.text_dir}")
        for split in recipe.data.splits:
            count = check_parallel(layout.text_dir, split, recipe.languages)
            self.say(f"  {split}: {count} pairs")

    def segment(self) -> None:
        """Train SentencePiece on the training text and segment all of it."""
        recipe, layout = self.recipe, self.layout
        settings = vars(recipe.sentencepiece)
        groups = (
            [recipe.languages] if recipe.sentencepiece.joint else [(x,) for x in recipe.languages]
        )
        for languages in groups:
            model = layout.sentencepiece(languages[0])
            files = [layout.text(recipe.data.train, lang) for lang in languages]
            self.stages.run(
                Stage(
                    model.stem,
                    layout.record(model.stem),
                    [model],
                    settings,
                    lambda files=files, model=model: train_sentencepiece(  # type: ignore[misc]
                        files, model, recipe.sentencepiece
                    ),
                    {f"train.{lang}": file for lang, file in zip(languages, files)},
                )
            )
        texts = {
            f"{split}.{lang}": layout.text(split, lang)
            for split in recipe.data.splits
            for lang in recipe.languages
        }

        def encode() -> None:
            for lang in recipe.languages:
                processor = load_sentencepiece(layout.sentencepiece(lang))
                for split in recipe.data.splits:
                    lines = encode_lines(processor, read_lines(layout.text(split, lang)))
                    write_lines(layout.segmented / f"{split}.{lang}", lines)

        models = {layout.sentencepiece(x).name: layout.sentencepiece(x) for x in recipe.languages}
        self.stages.run(
            Stage(
                "segment",
                layout.record("segmented"),
                [layout.segmented / name for name in texts],
                {},
                encode,
                {**texts, **models},
            )
        )

    def preprocess(self) -> None:
        """fairseq-preprocess; it refuses to overwrite dictionaries, so an old folder goes first."""
        layout = self.layout
        command = commands.preprocess_command(self.recipe, layout.segmented, layout.binarized)

        def binarize() -> None:
            shutil.rmtree(layout.binarized, ignore_errors=True)
            self._run(command, self.work_dir / "logs" / "preprocess.log", "preprocess")

        dictionaries = [layout.binarized / f"dict.{x}.txt" for x in self.recipe.languages]
        self._command_stage(
            "preprocess",
            command,
            layout.record("binarized"),
            dictionaries,
            binarize,
            {
                f"segmented/{split}.{lang}": layout.segmented / f"{split}.{lang}"
                for split in self.recipe.data.splits
                for lang in self.recipe.languages
            },
        )

    def train(self, arm: str) -> None:
        """The cross-entropy stage (``start``) or one arm; a killed one continues."""
        recipe, layout = self.recipe, self.layout
        first = arm == START
        flags = recipe.cross_entropy.flags if first else recipe.arm_flags(arm)
        start = None if first else layout.checkpoint(START)
        save_dir = layout.save_dir(arm)
        command = commands.train_command(recipe, layout.binarized, save_dir, flags, start)
        name = "cross_entropy stage" if first else f"arm {arm}"
        last = save_dir / "checkpoint_last.pt"
        limit = flag_value(flags, "--max-update")
        settings = layout.training(arm)

        def train() -> None:
            # With all updates done, fairseq-train would make one more.
            complete = (
                limit is not None and last.is_file() and checkpoint_updates(last) >= int(limit)
            )
            if not complete:
                self._run(
                    command,
                    layout.training_log(arm),
                    name,
                    training_progress(self.say),
                    append=last.is_file(),
                )
            if settings.average:
                paths = last_checkpoints(save_dir, settings.average)
                self.say(f"  average of {', '.join(p.name for p in paths)}")
                average_checkpoints(paths, layout.checkpoint(arm))

        # preprocess.log holds paths, and is not read by the training.
        data = {
            f"binarized/{layout.subset(s)}.{lang}.bin": layout.binarized
            / f"{layout.subset(s)}.{recipe.source_lang}-{recipe.target_lang}.{lang}.bin"
            for s in (recipe.data.train, recipe.data.valid)
            for lang in recipe.languages
        }
        dictionary = layout.binarized / f"dict.{recipe.target_lang}.txt"
        inputs = {**data, "dictionary": dictionary}
        if start is not None:
            inputs["start checkpoint"] = start
        self._command_stage(
            name,
            command,
            layout.record("cross_entropy" if first else f"arms/{arm}"),
            [last, layout.checkpoint(arm)],
            train,
            inputs,
            {"average": settings.average},
            save_dir,
        )

    def check_updates(self) -> None:
        """All arms must have made the same number of updates, or the comparison is void."""
        if self.dry_run:
            return
        made = {
            arm: checkpoint_updates(self.layout.save_dir(arm) / "checkpoint_last.pt")
            for arm in self.recipe.arms
        }
        if len(set(made.values())) > 1:
            raise RecipeError(
                f"the arms made different numbers of updates: {made}; use --max-update"
            )

    def lenpen(self, system: str, beam: int) -> float:
        """The length penalty a system is decoded with (chosen on valid if there are several)."""
        return self._lenpen.get((system, beam), self.recipe.decoding.lenpen[0])

    def decode_all(self) -> None:
        """Decode valid with every candidate length penalty, then the test sets with the best."""
        data = self.recipe.data
        for system in self.layout.systems:
            for beam in self.recipe.decoding.beams:
                # One hypothesis at a time is never compared with others of another length.
                candidates = self.recipe.decoding.lenpen if beam > 1 else [self.lenpen(system, 1)]
                for lenpen in candidates:
                    self.decode(system, data.valid, beam, lenpen)
                self._choose_lenpen(system, beam, candidates)
                for split in data.tests:
                    self.decode(system, split, beam, self.lenpen(system, beam))

    def _choose_lenpen(self, system: str, beam: int, candidates: list[float]) -> None:
        if len(candidates) == 1 or self.dry_run:
            self._lenpen[system, beam] = candidates[0]
            return
        valid, layout = self.recipe.data.valid, self.layout
        reference = read_lines(layout.text(valid, self.recipe.target_lang))
        outputs = {
            str(c): read_lines(layout.hypotheses(system, valid, beam, c)) for c in candidates
        }
        scored = compare(outputs, [reference], metrics=["bleu"]).systems
        bleu = {c: scored[str(c)].scores["bleu"].value for c in candidates}
        best = max(candidates, key=lambda c: bleu[c])
        self._lenpen[system, beam] = best
        shown = ", ".join(f"{c:g}: {bleu[c]:.2f}" for c in candidates)
        self.say(f"  {system} beam {beam}: valid BLEU by lenpen {{{shown}}}, takes {best:g}")

    def decode(self, system: str, split: str, beam: int, lenpen: float) -> None:
        """fairseq-generate of one split with one system."""
        recipe, layout = self.recipe, self.layout
        subset = layout.subset(split)
        output = layout.hypotheses(system, split, beam, lenpen)
        checkpoint = layout.checkpoint(system)
        command = commands.generate_command(
            checkpoint,
            layout.binarized,
            recipe.languages,
            subset,
            beam,
            lenpen,
            recipe.decoding.flags,
            recipe.fp16,
        )
        name = f"decode {system} {split} beam {beam}" + f" lenpen {lenpen:g}" * (lenpen != 1)

        def generate() -> None:
            lines = len(read_lines(layout.text(split, recipe.target_lang)))
            decode(
                command.argv(),
                output,
                layout.sentencepiece(recipe.target_lang),
                name,
                lines,
                generation_progress(self.say, lines),
                self._lock,
            )

        source = f"{subset}.{recipe.source_lang}-{recipe.target_lang}.{recipe.source_lang}.bin"
        model = layout.sentencepiece(recipe.target_lang)
        self._command_stage(
            name,
            command,
            output.with_name(f"{output.name}.stage.json"),
            [output, generate_log(output)],
            generate,
            {
                "checkpoint": checkpoint,
                source: layout.binarized / source,
                "dictionary": layout.binarized / f"dict.{recipe.target_lang}.txt",
                model.name: model,
            },
        )

    def evaluate(self) -> None:
        """Score every decoding against the original text; write results.json."""
        recipe, layout = self.recipe, self.layout
        decoded = {
            (split, beam, system): layout.hypotheses(system, split, beam, self.lenpen(system, beam))
            for split in recipe.data.splits[1:]
            for beam in recipe.decoding.beams
            for system in layout.systems
        }

        def score() -> None:
            results = collect_results(recipe, layout, decoded, self.commands, self._lenpen)
            write_text(layout.results, json.dumps(results, indent=1, ensure_ascii=False) + "\n")

        inputs = {"/".join(map(str, key)): path for key, path in decoded.items()}
        for split in recipe.data.splits[1:]:
            inputs[f"reference {split}"] = layout.text(split, recipe.target_lang)
        for system in layout.systems:
            log = layout.training_log(system)
            if log.is_file():
                inputs[f"log {system}"] = log
        settings = {
            "metrics": recipe.evaluation.metrics,
            "bootstrap_samples": recipe.evaluation.bootstrap_samples,
            "control": recipe.control,
            "selected": recipe.selected,
            "descriptions": {name: arm.description for name, arm in recipe.arms.items()},
            "lenpen": {f"{s} {b}": v for (s, b), v in self._lenpen.items()},
            "description": recipe.description,
        }
        self.stages.run(
            Stage("evaluate", layout.record("results"), [layout.results], settings, score, inputs)
        )

    def _run(
        self,
        command: commands.Command,
        log: Path,
        stage: str,
        on_line: Callable[[str], None] | None = None,
        append: bool = False,
    ) -> None:
        self.say(f"  log: {os.path.relpath(log)}")
        run_command(command.argv(), log, stage, on_line, append, self._lock)

    def _command_stage(
        self,
        name: str,
        command: commands.Command,
        record: Path,
        outputs: list[Path],
        action: Callable[[], None],
        inputs: dict[str, Path],
        extra: dict[str, int] | None = None,
        resumable: Path | None = None,
    ) -> None:
        """A stage that is one fairseq command: printed first, compared by its arguments."""
        self.commands.append((name, command.portable()))
        settings = {"command": command.fingerprint(self.work_dir), **(extra or {})}
        self.stages.run(
            Stage(name, record, outputs, settings, action, inputs, [f"$ {command}"], resumable)
        )
