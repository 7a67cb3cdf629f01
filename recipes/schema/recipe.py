"""A recipe as dataclasses: every key of the file is a field, described in ``docs/recipes.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from recipes.schema.flags import flag_value

# Tasks that decode by refining all positions at once, not with a beam.
ITERATIVE_TASKS = ("translation_lev",)
Format = Literal["plain", "iwslt-tags", "sgml", "tmx", "tsv", "tsv-references"]


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
    """Arguments of ``sentencepiece.SentencePieceTrainer``."""

    vocab_size: int
    model_type: Literal["unigram", "bpe", "char", "word"] = "unigram"
    joint: bool = True
    character_coverage: float = 1.0
    training_lines: int | None = None  # drawn at random: some millions do not fit into memory


@dataclass
class Training:
    """One fairseq-train run: its flags, and which checkpoint of it is used afterwards."""

    flags: list[str]
    checkpoint: str = "checkpoint_last.pt"  # or ``best``: that of the best validation
    average: int = 0  # of so many last checkpoints, the mean is used
    task: Task | None = None  # where it is not the recipe's

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
    """One fine-tuning run; its flags are added to those all arms share."""

    flags: list[str]
    description: str = ""
    budget: Literal["updates", "time"] = "updates"
    baseline: bool = False  # whether others are compared with it, if it is the best one on valid


@dataclass
class Decoding:
    """fairseq-generate settings; of several ``lenpen`` each system's is chosen on valid."""

    beams: list[int] = field(default_factory=lambda: [1, 5])
    lenpen: list[float] = field(default_factory=lambda: [1.0])
    flags: list[str] = field(default_factory=lambda: ["--max-tokens", "8000"])


@dataclass
class Corpus:
    """A corpus made by a module of :mod:`recipes.corpora` instead of files in ``--data-dir``."""

    name: Literal["cldr"]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class DownloadedFile:
    """A file that is downloaded into the cache, under its name in ``data.files``."""

    address: str
    sha256: str | None = None  # not known beforehand: the one found is printed
    licence: str = ""


@dataclass
class TextSource:
    """A part of a split's text: files, members of an archive, or one of sacrebleu's test sets."""

    text: dict[str, str] = field(default_factory=dict)  # file, or member, by language
    archive: str | None = None
    format: Format = "plain"
    references: list[str] = field(default_factory=list)  # further ones, a file each
    columns: dict[str, int] = field(default_factory=dict)  # by language, counted from 1
    tokenisation: Literal["none", "moses"] = "none"
    sacrebleu: str | None = None  # a test set, as ``wmt14/full``
    language_pair: str | None = None  # of that; the other direction swaps source and reference

    @property
    def files(self) -> list[str]:
        """Names of the files it is read from, without repetition."""
        texts = [*self.text.values(), *self.references]
        return [self.archive] if self.archive else list(dict.fromkeys(texts))


@dataclass
class Cleaning:
    """Which pairs are taken out of the training text; lengths in words between white space."""

    max_length: int | None = None
    max_length_ratio: float | None = None
    empty: bool = True
    identical: bool = False
    duplicates: bool = False


@dataclass
class HoldOut:
    """Splits that are cut out of the (cleaned) training text where nothing else gives them."""

    every: int | None = None  # one pair of so many goes to the valid split
    clusters: dict[str, int] = field(default_factory=dict)  # number of pairs by split
    several: str | None = None  # of the sources so drawn, those with several references

    def splits(self, valid: str) -> list[str]:
        """The splits that can be cut out."""
        if self.every is not None:
            return [valid]
        return [*self.clusters, *([self.several] if self.several else [])]


@dataclass
class Data:
    """Parallel text: the file ``PREFIX.LANG`` for every split and language."""

    train: str = "train"
    valid: str = "valid"
    tests: list[str] = field(default_factory=lambda: ["test"])
    corpus: Corpus | None = None
    files: dict[str, DownloadedFile] = field(default_factory=dict)
    sources: dict[str, list[TextSource]] = field(default_factory=dict)
    references: dict[str, list[str]] = field(default_factory=dict)
    cleaning: Cleaning | None = None
    hold_out: HoldOut | None = None
    lowercase: bool = False
    licence: str = ""
    size: str = ""
    tried: bool = True

    @property
    def splits(self) -> list[str]:
        """All prefixes, in the order train, valid, tests."""
        return [self.train, self.valid, *self.tests]


@dataclass
class Evaluation:
    """Metrics, tests, and the buckets of BLEU by length; see ``docs/evaluation.md``."""

    metrics: list[str] = field(default_factory=lambda: ["bleu", "chrf", "ter"])
    selection: str | None = None  # the metric of all choices
    bootstrap_samples: int = 1000
    randomization_trials: int = 10000  # 0 leaves the test out
    tokenize: str | None = None
    lowercase: bool = False
    chrf_word_order: int = 0
    comet_model: str = "Unbabel/wmt22-comet-da"
    length_buckets: list[int] = field(
        default_factory=lambda: [10, 20, 30, 40, 50]
    )  # longest, words
    smallest_bucket: int = 50  # sentences

    @property
    def selected_by(self) -> str:
        """The metric of all choices."""
        return self.selection or ("bleu" if "bleu" in self.metrics else self.metrics[0])


@dataclass
class Recipe:
    """The whole experiment."""

    source_lang: str
    target_lang: str
    sentencepiece: SentencePiece
    architecture: list[str]
    cross_entropy: Training
    finetune: Training
    arms: Mapping[str, Arm]
    annealing: Training | None = None  # a second stage of cross-entropy; the arms start from it
    description: str = ""
    control: str = "cross_entropy"
    constant_reward: bool = False  # beside every arm with a reward, one whose reward is always 1
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
