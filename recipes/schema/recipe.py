"""A recipe as dataclasses: every key of the file is a field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from recipes.schema.data import Data
from recipes.schema.evaluation import Evaluation
from recipes.schema.flags import flag_value

# Tasks that decode by refining all positions at once, not with a beam.
ITERATIVE_TASKS = ("translation_lev",)


@dataclass
class Task:
    """fairseq's task; its ``flags`` (such as ``--noise``) go to training and to decoding."""

    name: str = "translation"
    flags: list[str] = field(default_factory=list)

    @property
    def iterative(self) -> bool:
        """Whether outputs are refined in passes over all positions, without a beam."""
        return self.name in ITERATIVE_TASKS


@dataclass
class SentencePiece:
    """Arguments of ``sentencepiece.SentencePieceTrainer``.

    With ``training_lines`` the model is trained on that many lines, drawn at random (the same
    ones every time): more than some millions do not fit into memory.
    """

    vocab_size: int
    model_type: str = "unigram"
    joint: bool = True
    character_coverage: float = 1.0
    training_lines: int | None = None


@dataclass
class Training:
    """One fairseq-train run: its flags, and which checkpoint of it is used afterwards.

    ``checkpoint`` is a file name, or ``best``: that of the validation with the best BLEU.
    ``task`` is fairseq's task in this run, where it is not the recipe's.
    """

    flags: list[str]
    checkpoint: str = "checkpoint_last.pt"
    average: int = 0
    task: Task | None = None

    @property
    def checkpoint_name(self) -> str:
        """File name, in the save-dir, of the checkpoint that is used afterwards."""
        file = "checkpoint_best.pt" if self.checkpoint == "best" else self.checkpoint
        return f"average_{self.average}.pt" if self.average else file

    def completed(self, flags: Sequence[str] = ()) -> list[str]:
        """This training's flags, then ``flags`` (the later value counts), then what they imply.

        ``checkpoint: best`` is by BLEU unless the flags name another metric, and polynomial decay
        ends with the last update unless they say when.
        """
        found = [*self.flags, *flags]
        if self.checkpoint == "best" and not flag_value(found, "--best-checkpoint-metric"):
            found += ["--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric"]
        end = flag_value(found, "--max-update")
        decays = flag_value(found, "--lr-scheduler") == "polynomial_decay"
        if decays and end and not flag_value(found, "--total-num-update"):
            found += ["--total-num-update", end]
        return found


@dataclass
class Arm:
    """One fine-tuning run; its flags are added to those all arms share.

    Args:
        budget: ``updates``, the same ones as all such arms, or ``time``: as many as take the time
            of a costlier arm.
        baseline: whether the others are compared with it, as with the start and the control,
            if it is the best of these on valid.
    """

    flags: list[str]
    description: str = ""
    budget: str = "updates"
    baseline: bool = False


@dataclass
class Decoding:
    """fairseq-generate settings; of several ``lenpen`` each system's is chosen on valid.

    A task that decodes without a beam has ``beams: [1]``; its settings are among the flags.
    """

    beams: list[int] = field(default_factory=lambda: [1, 5])
    lenpen: list[float] = field(default_factory=lambda: [1.0])
    flags: list[str] = field(default_factory=lambda: ["--max-tokens", "8000"])


@dataclass
class Recipe:
    """The whole experiment.

    ``constant_reward``: beside every arm with a reward, train one whose reward is always 1.
    With ``annealing``, a second stage of cross-entropy continues from the first one's checkpoint
    with an optimiser and a learning rate of its own, and the arms start from what it ends with.
    """

    source_lang: str
    target_lang: str
    sentencepiece: SentencePiece
    architecture: list[str]
    cross_entropy: Training
    finetune: Training
    arms: dict[str, Arm]
    annealing: Training | None = None
    description: str = ""
    control: str = "cross_entropy"
    constant_reward: bool = False
    fp16: bool = False
    log_interval: int = 20
    task: Task = field(default_factory=Task)
    data: Data = field(default_factory=Data)
    decoding: Decoding = field(default_factory=Decoding)
    evaluation: Evaluation = field(default_factory=Evaluation)
    name: str = ""

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language codes."""
        return self.source_lang, self.target_lang

    @property
    def start_stages(self) -> dict[str, Training]:
        """The trainings that make the start, in order, by name."""
        annealing = {} if self.annealing is None else {"annealing": self.annealing}
        return {"cross_entropy": self.cross_entropy, **annealing}

    def arm_flags(self, arm: str) -> list[str]:
        """The shared fine-tuning flags followed by the arm's own."""
        return self.finetune.completed(self.arms[arm].flags)
