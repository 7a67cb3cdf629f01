"""Where everything lies below a recipe's work-dir."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from recipes.running.trained_arms import START, TrainedRecipe, with_seed
from recipes.schema.recipe import Training


def training_log(save_dir: Path) -> Path:
    """What the fairseq-train that writes to ``save_dir`` printed."""
    return save_dir / "train.log"


@dataclass
class Layout:
    """File names of one run of ``recipe`` in ``work_dir``, text read from ``text_dir``."""

    recipe: TrainedRecipe
    work_dir: Path
    text_dir: Path

    def __post_init__(self) -> None:
        recipe, languages = self.recipe, self.recipe.languages
        self.segmented = self.work_dir / "segmented"  # the text in pieces
        self.binarized = self.work_dir / "binarized"  # what fairseq-preprocess writes
        self.results = self.work_dir / "results.json"  # the evaluation's figures
        dictionaries = {lang: self.binarized / f"dict.{lang}.txt" for lang in languages}
        self.dictionaries = {f"dictionary {lang}": path for lang, path in dictionaries.items()}
        # Split and language of every file of the text.
        self.sides = [(split, lang) for split in recipe.data.splits for lang in languages]
        # What the arms continue: ``start``, and ``start.seedN`` of further seeds.
        self.starts = list(dict.fromkeys(arm.start for arm in recipe.arms.values()))
        # Everything decoded: the starts, then the control, then the other arms.
        self.systems = list(dict.fromkeys([*self.starts, recipe.control, *recipe.arms]))

    def record(self, name: str) -> Path:
        """Record of the stage whose output is ``name``."""
        return self.work_dir / f"{name}.stage.json"

    def text(self, split: str, lang: str) -> Path:
        """Original text of a split: what references are read from."""
        return self.text_dir / f"{split}.{lang}"

    def sentencepiece(self, lang: str) -> Path:
        """The SentencePiece model of a language; one for both when it is joint."""
        joint = self.recipe.sentencepiece.joint
        return self.work_dir / ("sentencepiece.model" if joint else f"sentencepiece.{lang}.model")

    def subset(self, split: str) -> str:
        """fairseq's name of a split: train, valid, test, test1, test2 ..."""
        data = self.recipe.data
        if split in data.tests:
            index = data.tests.index(split)
            return f"test{index or ''}"
        return "train" if split == data.train else "valid"

    def binary(self, split: str, lang: str) -> Path:
        """The file fairseq-preprocess writes for one side of a split."""
        pair = "-".join(self.recipe.languages)
        return self.binarized / f"{self.subset(split)}.{pair}.{lang}.bin"

    def start_stages(self, start: str = START) -> dict[str, Training]:
        """The trainings that make a start, in order, by the name of their save-dir."""
        _, _, suffix = start.partition(".")
        if not suffix:
            return self.recipe.start_stages
        seed = int(suffix.removeprefix("seed"))
        return {
            f"{name}.{suffix}": replace(training, flags=with_seed(training.flags, seed))
            for name, training in self.recipe.start_stages.items()
        }

    def save_dir(self, system: str) -> Path:
        """Checkpoint folder of an arm, or of the last training that makes a start."""
        return self._folder_and_training(system)[0]

    def checkpoint(self, system: str) -> Path:
        """The checkpoint of an arm, or of a start, that is decoded."""
        folder, training = self._folder_and_training(system)
        return folder / training.checkpoint_name

    def _folder_and_training(self, system: str) -> tuple[Path, Training]:
        if system.partition(".")[0] != START:
            return self.work_dir / "arms" / system, self.recipe.finetune
        name, training = [*self.start_stages(system).items()][-1]
        return self.work_dir / name, training

    def hypotheses(self, system: str, split: str, beam: int, lenpen: float) -> Path:
        """Detokenised output of one decoding."""
        name = f"{split}.beam{beam}.lenpen{lenpen:g}.{self.recipe.target_lang}"
        return self.work_dir / "decoded" / system / name
