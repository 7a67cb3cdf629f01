"""Flags of ``--criterion expected_bleu``, and their values checked."""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum
from omegaconf import II

from criterions.bleu.expected import OVERLAPS
from criterions.bleu.statistics import LEVELS, SMOOTHINGS
from fairseq_plugins.flags import HIGHEST_ORDER, SENTENCE_ENDS, at_least, below_1
from fairseq_plugins.parallel_training import ParallelTrainingConfig, check_parallel_training

OVERLAP_CHOICES = ChoiceEnum(list(OVERLAPS))
FEED_CHOICES = ChoiceEnum(["teacher", "greedy", "sample"])
HYPOTHESIS_LENGTH_CHOICES = ChoiceEnum(["auto", "expected", "fixed"])
SENTENCE_END_CHOICES = ChoiceEnum(list(SENTENCE_ENDS))
BLEU_LEVEL_CHOICES = ChoiceEnum(list(LEVELS))
SMOOTHING_CHOICES = ChoiceEnum(list(SMOOTHINGS))


@dataclass
class ExpectedBleuCriterionConfig(ParallelTrainingConfig):
    """Flags of ``--criterion expected_bleu``."""

    overlap: OVERLAP_CHOICES = field(
        default="exact",
        metadata={
            "help": "value of the expected clipped n-gram counts: the expectation itself (exact), "
            "the published formula (paper, arXiv 1712.04708), or a bound that always holds "
            "(lower, upper)"
        },
    )
    feed: FEED_CHOICES = field(
        default="teacher",
        metadata={
            "help": "whose prefix the decoder is fed: the reference's (teacher), or "
            "the model's own greedy or sampled output, decoded without gradient first; "
            "validation takes greedy in place of sample; for a non-autoregressive model, whose "
            "length is the candidate's: the reference's (teacher) or the predicted one (greedy)"
        },
    )
    hypothesis_length: HYPOTHESIS_LENGTH_CHOICES = field(
        default="auto",
        metadata={
            "help": "length of the candidate: expected, by the probabilities of </s>, with "
            "gradient; or fixed, that of the fed prefix (then only the cross-entropy trains </s>); "
            "auto is fixed for a non-autoregressive model, whose length is known before its "
            "tokens are, and expected for all others"
        },
    )
    sentence_end: SENTENCE_END_CHOICES = field(
        default="ngram",
        metadata={
            "help": "how BLEU takes </s>: as a token of hypothesis and reference, so that n-grams "
            "that end in it count (ngram), or not at all, as in the published formula (ignore); "
            "without effect on a non-autoregressive model"
        },
    )
    bleu_level: BLEU_LEVEL_CHOICES = field(
        default="corpus",
        metadata={
            "help": "corpus: one BLEU from the statistics of the batch summed over all workers; "
            "sentence: the mean of the sentences' BLEU"
        },
    )
    max_order: int = field(default=4, metadata={"help": "highest n-gram order of BLEU, 16 at most"})
    smoothing: SMOOTHING_CHOICES = field(
        default="add-k",
        metadata={
            "help": "add one to matches and totals of no order (none), of the orders above the "
            "unigram (add-k, as in sacrebleu), or of all orders (add-k-all)"
        },
    )
    cross_entropy_weight: float = field(
        default=0.1,
        metadata={
            "help": "weight of the (label-smoothed) cross-entropy added to 1 - BLEU; of a "
            "non-autoregressive model, that of its words: <s> and </s>, where it predicts them, "
            "and the other losses, such as that of the length, are not multiplied by it"
        },
    )
    label_smoothing: float = field(
        default=0.0,
        metadata={"help": "epsilon of the cross-entropy's label smoothing, 0 means none"},
    )
    max_decode_ratio: float = field(
        default=2.0,
        metadata={
            "help": "with --feed greedy or sample: decode at most this many times the source's "
            "tokens, plus 10"
        },
    )
    max_decode_length: int = field(
        default=200,
        metadata={"help": "with --feed greedy or sample: decode at most this many tokens"},
    )
    ignore_prefix_size: int = field(
        default=0,
        metadata={
            "help": "leave the first N target tokens (such as language tags) out of every "
            "count; decoding starts from them"
        },
    )
    sentence_avg: bool = II("optimization.sentence_avg")


def check_values(cfg: ExpectedBleuCriterionConfig) -> None:
    """Raise ``ValueError``, which names the flag, for a value that cannot be trained with."""
    check_parallel_training(cfg, "expected_bleu", decodes=str(cfg.feed) != "teacher")
    at_least("--max-order", cfg.max_order, 1, at_most=HIGHEST_ORDER)
    at_least("--cross-entropy-weight", cfg.cross_entropy_weight, 0)
    below_1("--label-smoothing", cfg.label_smoothing)
    at_least("--max-decode-length", cfg.max_decode_length, 1)
    at_least("--max-decode-ratio", cfg.max_decode_ratio, 0)
    at_least("--ignore-prefix-size", cfg.ignore_prefix_size, 0)
