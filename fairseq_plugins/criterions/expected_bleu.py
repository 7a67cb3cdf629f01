"""``--criterion expected_bleu``: train on the expected BLEU of the decoder's distribution."""

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor

from criterions import BleuStatistics, bleu_from_statistics, expected_statistics
from criterions.bleu_statistics import LEVELS, SMOOTHINGS
from criterions.expected_overlap import OVERLAP_VALUES
from fairseq_plugins.bleu_metrics import log_expected_bleu, logged_sums
from fairseq_plugins.decoding import ForcedTokens, Sampling, decode, decode_limits
from fairseq_plugins.flags import at_least, check_label_smoothing, check_model
from fairseq_plugins.loss_metrics import log_loss
from fairseq_plugins.rows import (
    FedRows,
    Reference,
    cross_entropy,
    prefix_columns,
    reference_of,
    rows_of,
)
from fairseq_plugins.workers import TrainStepWatch, sum_over_workers

OVERLAP_CHOICES = ChoiceEnum(list(OVERLAP_VALUES))
FEED_CHOICES = ChoiceEnum(["teacher", "greedy", "sample"])
HYPOTHESIS_LENGTH_CHOICES = ChoiceEnum(["expected", "fixed"])
BLEU_LEVEL_CHOICES = ChoiceEnum(list(LEVELS))
SMOOTHING_CHOICES = ChoiceEnum(list(SMOOTHINGS))


@dataclass
class ExpectedBleuCriterionConfig(FairseqDataclass):
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
            "help": "whose prefix conditions the decoder's rows: the reference's (teacher), or "
            "the model's own greedy or sampled output, decoded without gradient first; "
            "validation takes greedy in place of sample"
        },
    )
    hypothesis_length: HYPOTHESIS_LENGTH_CHOICES = field(
        default="expected",
        metadata={
            "help": "length of the candidate: expected, by the rows' </s> probabilities, with "
            "gradient; or fixed, that of the fed prefix (then only the cross-entropy trains </s>)"
        },
    )
    bleu_level: BLEU_LEVEL_CHOICES = field(
        default="corpus",
        metadata={
            "help": "corpus: one BLEU from the statistics of the batch summed over all workers; "
            "sentence: the mean of the sentences' BLEU"
        },
    )
    max_order: int = field(default=4, metadata={"help": "highest n-gram order of BLEU"})
    smoothing: SMOOTHING_CHOICES = field(
        default="add-k",
        metadata={
            "help": "add one to matches and totals of no order (none), of the orders above the "
            "unigram (add-k, as in sacrebleu), or of all orders (add-k-all)"
        },
    )
    cross_entropy_weight: float = field(
        default=0.1,
        metadata={"help": "weight of the (label-smoothed) cross-entropy added to 1 - BLEU"},
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


@dataclass(frozen=True)
class WholeBatch:
    """Sums over a batch: BLEU's statistics with gradient, and scalar tensors of its size."""

    statistics: BleuStatistics
    sample_size: Tensor
    sentences: Tensor
    ntokens: Tensor


@register_criterion("expected_bleu", dataclass=ExpectedBleuCriterionConfig)
class ExpectedBleuCriterion(FairseqCriterion):
    """Minimise ``1 - BLEU(expected statistics) + cross_entropy_weight * cross-entropy``.

    Both terms are means (over the corpus or its sentences; over tokens), so their ratio does not
    depend on the batch size; ``sample_size`` is the number of tokens, or of sentences with
    ``--sentence-avg``, as in fairseq's own criterions.
    """

    def __init__(
        self,
        task: FairseqTask,
        overlap: str,
        feed: str,
        hypothesis_length: str,
        bleu_level: str,
        max_order: int,
        smoothing: str,
        cross_entropy_weight: float,
        label_smoothing: float,
        max_decode_ratio: float,
        max_decode_length: int,
        ignore_prefix_size: int,
        sentence_avg: bool,
    ) -> None:
        super().__init__(task)
        self.dictionary = task.target_dictionary
        # fairseq hands the choices over as enumeration members.
        self.overlap, self.feed = str(overlap), str(feed)
        self.hypothesis_length = str(hypothesis_length)
        self.bleu_level, self.smoothing = str(bleu_level), str(smoothing)
        self.max_order = at_least("--max-order", max_order, 1)
        self.cross_entropy_weight = at_least("--cross-entropy-weight", cross_entropy_weight, 0)
        self.label_smoothing = check_label_smoothing(label_smoothing)
        self.max_decode_length = at_least("--max-decode-length", max_decode_length, 1)
        self.max_decode_ratio = at_least("--max-decode-ratio", max_decode_ratio, 0)
        self.ignore_prefix_size = at_least("--ignore-prefix-size", ignore_prefix_size, 0)
        self.sentence_avg = sentence_avg
        self.train_step = TrainStepWatch(task)

    def forward(
        self, model: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss of one batch.

        Args:
            model: a fairseq encoder-decoder model, possibly wrapped for data parallelism.
            sample: a batch of a translation task.
            reduce: ignored; the objective has no value per token.

        Returns:
            the loss summed up to ``sample_size``, ``sample_size``, and the logged sums.

        Raises:
            ValueError: the model is no encoder-decoder model, or has an adaptive softmax.
        """
        check_model(model, "expected_bleu")
        reference = reference_of(sample, self.dictionary)
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        logged: dict[str, Any] = {
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        scored = reference.without_prefix(self.ignore_prefix_size)

        teacher_rows = smoothed = None
        if self.feed == "teacher" or self.cross_entropy_weight > 0 or not self.training:
            logits = self._logits(model, sample, sample["net_input"]["prev_output_tokens"])
            teacher_rows = rows_of(logits, scored, self.dictionary.eos()).reordered(scored.order)
            smoothed, logged["nll_loss"] = cross_entropy(
                teacher_rows, scored, logits.size(-1), self.label_smoothing
            )
        if self.feed == "teacher":
            fed = FedRows(teacher_rows, scored.rows, scored.lengths)
        else:
            fed = self._free_running_rows(model, sample, reference, scored)

        statistics = self._statistics(fed, scored)
        corpus = statistics.over_corpus()
        batch = self._whole_batch(corpus, sample_size, sample["target"].size(0), sample["ntokens"])
        loss, logged["loss"] = self._bleu_loss(statistics, batch, sample_size)
        if smoothed is not None:
            per_token = batch.sample_size / batch.ntokens.clamp(min=1) if self.sentence_avg else 1
            weighted = self.cross_entropy_weight * per_token * smoothed
            loss, logged["loss"] = loss + weighted, logged["loss"] + weighted
        logged.update(logged_sums(corpus))
        logged = {
            key: value.detach() if isinstance(value, Tensor) else value
            for key, value in logged.items()
        }
        return loss, sample_size, logged

    @staticmethod
    def _logits(model: Any, sample: dict[str, Any], prev_output_tokens: Tensor) -> Tensor:
        """``[batch, tgt_len, vocab]``, through the wrapped model so that workers stay in step."""
        net_input = {**sample["net_input"], "prev_output_tokens": prev_output_tokens}
        return model(**net_input)[0]

    def _free_running_rows(
        self, model: Any, sample: dict[str, Any], reference: Reference, scored: Reference
    ) -> FedRows:
        """Rows given the model's own output."""
        # With padding on the left, the first column is not where every sentence starts.
        start = sample["net_input"]["prev_output_tokens"].gather(1, reference.order[:, :1])
        net_input = {**sample["net_input"], "prev_output_tokens": start}
        prefix = reference.tokens[:, : self.ignore_prefix_size]
        forced = ForcedTokens(prefix, torch.ones_like(prefix, dtype=torch.bool))
        longest = min(self.max_decode_length, model.max_decoder_positions() - 1)
        limits = decode_limits(net_input["src_lengths"], self.max_decode_ratio, longest)
        decoded = decode(
            model,
            net_input,
            limits,
            eos=self.dictionary.eos(),
            pad=self.padding_idx,
            sampling=Sampling() if self.feed == "sample" and self.training else None,
            forced=forced if self.ignore_prefix_size else None,
        )
        fed = torch.cat([start, decoded.tokens[:, :-1]], dim=1)
        cut = prefix_columns(self.ignore_prefix_size, fed.size(1))
        logits = self._logits(model, sample, fed)[:, cut:]
        return FedRows(
            rows_of(logits, scored, self.dictionary.eos()),
            (decoded.emitted - self.ignore_prefix_size).clamp(min=0),
            (decoded.lengths - self.ignore_prefix_size).clamp(min=0),
        )

    def _statistics(self, fed: FedRows, scored: Reference) -> BleuStatistics:
        """Expected statistics of each sentence; ``scored`` is the reference without its prefix."""
        expected_length = self.hypothesis_length == "expected"
        return expected_statistics(
            fed.rows.reference_probabilities(scored, self.dictionary),
            scored.tokens,
            value=self.overlap,
            max_order=self.max_order,
            lengths=fed.number if expected_length else fed.words,
            reference_lengths=scored.lengths,
            eos_probabilities=fed.rows.log_eos.exp() if expected_length else None,
        )

    def _whole_batch(
        self, corpus: BleuStatistics, sample_size: int, sentences: int, ntokens: int
    ) -> WholeBatch:
        """Sums over the sentences of all workers in training, of this one in validation."""
        sizes = (sample_size, sentences, ntokens)
        # Filled on the device: a tensor made of a list would be copied from the host.
        filled = [corpus.matches.new_full((1,), size) for size in sizes]
        sums = torch.cat([*(item.flatten() for item in corpus), *filled])
        if self.training:
            sums = sum_over_workers(sums * self.train_step.weight)
        orders = self.max_order
        matches, totals, rest = sums.split([orders, orders, sums.numel() - 2 * orders])
        hypothesis_length, reference_length, *counts = rest
        return WholeBatch(
            BleuStatistics(matches, totals, hypothesis_length, reference_length), *counts
        )

    def _bleu_loss(
        self, statistics: BleuStatistics, batch: WholeBatch, sample_size: int
    ) -> tuple[Tensor, Tensor]:
        """``1 - BLEU`` as this worker's share: with the gradient, and as it is logged.

        fairseq adds the workers' gradients and divides by the sum of their sample sizes.  The
        first value, so treated, gives the gradient of the objective of the whole batch; the
        second, so treated, gives its value.
        """
        if self.bleu_level == "corpus":
            loss = 1 - bleu_from_statistics(*batch.statistics, smoothing=self.smoothing)
            return loss * batch.sample_size, loss * sample_size
        per_sentence = 1 - bleu_from_statistics(*statistics, smoothing=self.smoothing)
        share = per_sentence.sum() * batch.sample_size / batch.sentences.clamp(min=1)
        return share, share

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the sums of all workers.

        See :func:`log_loss` and :func:`log_expected_bleu`.
        """
        log_loss(logging_outputs)
        log_expected_bleu(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All logged values are sums."""
        return True
