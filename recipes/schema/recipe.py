"""A recipe as dataclasses: every key of the file is a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
class Corpus:
    """A corpus made by a module of :mod:`recipes.corpora` instead of files in ``--data-dir``."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class DownloadedFile:
    """A file that is downloaded into the cache, under its name in ``data.files``.

    Where ``sha256`` is null the checksum is not known beforehand: the one found is printed.
    """

    address: str
    sha256: str | None = None
    licence: str = ""


@dataclass
class TextSource:
    """A part of a split's text: files, members of an archive, or one of sacrebleu's test sets.

    Args:
        text: the file of each language, by language code, or one name with ``{lang}`` for the
            code: a name in ``data.files`` or, where ``archive`` is given, a member of that
            archive. Files of ``--data-dir`` are taken by the same names.
        archive: a name in ``data.files``; .tgz, .tar and .zip are known.
        format: how lines are read out of the file, see :mod:`recipes.data.formats`.
        references: more references, one file each, in the format of the first.
        columns: for ``tsv``, the column of each language, counted from 1.
        tokenisation: ``moses`` for text that Moses' tokenizer wrote; its words are put together.
        sacrebleu: name of a test set of sacrebleu, as ``wmt14/full``.
        language_pair: that test set's language pair; the recipe's own if not given. One in the
            other direction swaps source and reference.
    """

    text: dict[str, str] = field(default_factory=dict)
    archive: str | None = None
    format: str = "plain"
    references: list[str] = field(default_factory=list)
    columns: dict[str, int] = field(default_factory=dict)
    tokenisation: str = "none"
    sacrebleu: str | None = None
    language_pair: str | None = None

    @property
    def files(self) -> list[str]:
        """Names of the files it is read from, without repetition."""
        texts = [*self.text.values(), *self.references]
        return [self.archive] if self.archive else list(dict.fromkeys(texts))


@dataclass
class Cleaning:
    """Which pairs are taken out of the training text; lengths in words between white space.

    Args:
        max_length: longest sentence, on either side.
        max_length_ratio: largest ratio of the longer side's length to the shorter one's.
        empty: take pairs with an empty side out.
        identical: take pairs out whose sides are equal.
        duplicates: keep the first of equal pairs.
    """

    max_length: int | None = None
    max_length_ratio: float | None = None
    empty: bool = True
    identical: bool = False
    duplicates: bool = False


@dataclass
class HoldOut:
    """Splits that are cut out of the (cleaned) training text where nothing else gives them.

    Args:
        every: every ``every``-th pair goes to the valid split.
        clusters: number of pairs by split, drawn so that no sentence is in two splits. All of
            the training text is held in memory for it.
        several: with ``clusters``, a further test set: the sources of the pairs so drawn that
            have several references, with all of them.
    """

    every: int | None = None
    clusters: dict[str, int] = field(default_factory=dict)
    several: str | None = None

    def splits(self, valid: str) -> list[str]:
        """The splits that can be cut out."""
        if self.every is not None:
            return [valid]
        return [*self.clusters, *([self.several] if self.several else [])]


@dataclass
class Data:
    """Parallel text: the file ``PREFIX.LANG`` for every split and language.

    Args:
        sources: where the text of a split comes from, by split, unless ``--data-dir`` holds it.
        files: what is downloaded for them, by file name.
        references: files of the references of a test set that has several, by split. They lie
            in the folder of the text; ``PREFIX.LANG.0``, ``PREFIX.LANG.1`` ... need no mention.
        hold_out: cuts splits out of the training text.
        lowercase: lower-case all text.
        licence: of the text, in words.
        size: number of training pairs, and how much is downloaded, in words.
        tried: whether the downloads were tried when the recipe was written.
    """

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
    """Metrics, tests, and the buckets of BLEU by length.

    Args:
        metrics: names of :mod:`recipes.scoring.metrics`, or ``module:function`` of the user's own.
        selection: the metric, one of these, by which length penalties and the better baseline are
            chosen on valid, and which plots and short tables show; the first of them if not given.
        bootstrap_samples: resamples of the bootstrap that gives the intervals.
        randomization_trials: shuffles of approximate randomisation; 0 leaves the test out.
        tokenize: BLEU's tokeniser, as ``sacrebleu --tokenize``; null is sacrebleu's default, 13a.
        lowercase: BLEU that does not see case, as ``sacrebleu --lowercase``.
        chrf_word_order: as ``sacrebleu --chrf-word-order``; 2 is chrF++.
        comet_model: of the metric ``comet``: a name, or the file of a checkpoint.
        length_buckets: longest reference (words) of each bucket but the last.
        smallest_bucket: sentences; smaller buckets are merged with a neighbour.
    """

    metrics: list[str] = field(default_factory=lambda: ["bleu", "chrf", "ter"])
    selection: str | None = None
    bootstrap_samples: int = 1000
    randomization_trials: int = 10000
    tokenize: str | None = None
    lowercase: bool = False
    chrf_word_order: int = 0
    comet_model: str = "Unbabel/wmt22-comet-da"
    length_buckets: list[int] = field(default_factory=lambda: [10, 20, 30, 40, 50])
    smallest_bucket: int = 50

    @property
    def selected_by(self) -> str:
        """The metric of all choices."""
        return self.selection or ("bleu" if "bleu" in self.metrics else self.metrics[0])


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
    arms: Mapping[str, Arm]
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
