"""Where everything lies below a recipe's work-dir."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipes.schema.recipe import Recipe, Training

START = "start"  # the row of the checkpoint that all arms start from


def training_log(save_dir: Path) -> Path:
    """What the fairseq-train that writes to ``save_dir`` printed."""
    return save_dir / "train.log"


@dataclass(frozen=True)
class Layout:
    """File names of one run of ``recipe`` in ``work_dir``, text read from ``text_dir``."""

    recipe: Recipe
    work_dir: Path
    text_dir: Path

    @property
    def segmented(self) -> Path:
        """Folder of the files in pieces."""
        return self.work_dir / "segmented"

    @property
    def binarized(self) -> Path:
        """Folder that fairseq-preprocess writes."""
        return self.work_dir / "binarized"

    @property
    def results(self) -> Path:
        """The evaluation's figures."""
        return self.work_dir / "results.json"

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

    @property
    def start_stages(self) -> dict[str, Training]:
        """The trainings that make ``start``, in order; each one's name is that of its save-dir."""
        stages = {"cross_entropy": self.recipe.cross_entropy}
        if self.recipe.annealing is not None:
            stages["annealing"] = self.recipe.annealing
        return stages

    def save_dir(self, arm: str) -> Path:
        """Checkpoint folder of an arm, or of the last training that makes ``start``."""
        return self.work_dir / (list(self.start_stages)[-1] if arm == START else f"arms/{arm}")

    def training(self, arm: str) -> Training:
        """Settings of the training behind a system."""
        return list(self.start_stages.values())[-1] if arm == START else self.recipe.finetune

    def checkpoint(self, arm: str) -> Path:
        """The checkpoint of an arm (or of ``start``) that is decoded."""
        return self.save_dir(arm) / self.training(arm).checkpoint_name

    def training_log(self, arm: str) -> Path:
        """What fairseq-train printed."""
        return training_log(self.save_dir(arm))

    def hypotheses(self, system: str, split: str, beam: int, lenpen: float) -> Path:
        """Detokenised output of one decoding."""
        name = f"{split}.beam{beam}.lenpen{lenpen:g}.{self.recipe.target_lang}"
        return self.work_dir / "decoded" / system / name

    @property
    def systems(self) -> list[str]:
        """Everything decoded: the start, then the control, then the other arms."""
        control = self.recipe.control
        return [START, control, *(arm for arm in self.recipe.arms if arm != control)]
