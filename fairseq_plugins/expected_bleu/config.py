"""Flags of ``--criterion expected_bleu``, and their values checked."""

from dataclasses import dataclass

from fairseq.dataclass import ChoiceEnum
from omegaconf import II

from criterions.bleu.expected import OVERLAPS
from criterions.bleu.statistics import LEVELS, SMOOTHINGS
from fairseq_plugins.flags import HIGHEST_ORDER, SENTENCE_ENDS, at_least, below_1, option
from fairseq_plugins.parallel_training import ParallelTrainingConfig, check_parallel_training


@dataclass
class ExpectedBleuCriterionConfig(ParallelTrainingConfig):
    """Flags of ``--criterion expected_bleu``."""

    overlap: ChoiceEnum(list(OVERLAPS)) = option(
        "exact",
        "value of the expected clipped n-gram counts: the expectation itself (exact), "
        "the published formula (paper, arXiv 1712.04708), or a bound that always holds "
        "(lower, upper)",
    )
    feed: ChoiceEnum(["teacher", "greedy", "sample"]) = option(
        "teacher",
        "whose prefix the decoder is fed: the reference's (teacher), or "
        "the model's own greedy or sampled output, decoded without gradient first; "
        "validation takes greedy in place of sample; for a non-autoregressive model, whose "
        "length is the candidate's: the reference's (teacher) or the predicted one (greedy)",
    )
    hypothesis_length: ChoiceEnum(["auto", "expected", "fixed"]) = option(
        "auto",
        "length of the candidate: expected, by the probabilities of </s>, with "
        "gradient; or fixed, that of the fed prefix (then only the cross-entropy trains </s>); "
        "auto is fixed for a non-autoregressive model, whose length is known before its "
        "tokens are, and expected for all others",
    )
    sentence_end: ChoiceEnum(list(SENTENCE_ENDS)) = option(
        "ngram",
        "how BLEU takes </s>: as a token of hypothesis and reference, so that n-grams "
        "that end in it count (ngram), or not at all, as in the published formula (ignore); "
        "without effect on a non-autoregressive model",
    )
    bleu_level: ChoiceEnum(list(LEVELS)) = option(
        "corpus",
        "corpus: one BLEU from the statistics of the batch summed over all workers; "
        "sentence: the mean of the sentences' BLEU",
    )
    max_order: int = option(4, "highest n-gram order of BLEU, 16 at most")
    smoothing: ChoiceEnum(list(SMOOTHINGS)) = option(
        "add-k",
        "add one to matches and totals of no order (none), of the orders above the "
        "unigram (add-k, as in sacrebleu), or of all orders (add-k-all)",
    )
    cross_entropy_weight: float = option(
        0.1,
        "weight of the (label-smoothed) cross-entropy added to 1 - BLEU; of a "
        "non-autoregressive model, that of its words: <s> and </s>, where it predicts them, "
        "and the other losses, such as that of the length, are not multiplied by it",
    )
    label_smoothing: float = option(
        0.0, "epsilon of the cross-entropy's label smoothing, 0 means none"
    )
    max_decode_ratio: float = option(
        2.0,
        "with --feed greedy or sample: decode at most this many times the source's tokens, plus 10",
    )
    max_decode_length: int = option(
        200, "with --feed greedy or sample: decode at most this many tokens"
    )
    ignore_prefix_size: int = option(
        0,
        "leave the first N target tokens (such as language tags) out of every "
        "count; decoding starts from them",
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
