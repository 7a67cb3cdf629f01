"""``--criterion expected_bleu``: train on the expected BLEU of the decoder's distribution."""

from __future__ import annotations

from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor

from criterions import bleu_from_statistics
from fairseq_plugins.expected_bleu.autoregressive import AutoregressiveScores
from fairseq_plugins.expected_bleu.config import ExpectedBleuCriterionConfig, check_values
from fairseq_plugins.expected_bleu.non_autoregressive import NonAutoregressiveScores
from fairseq_plugins.expected_bleu.scored_batch import BatchSums, ScoredBatch
from fairseq_plugins.metrics import log_expected_bleu, log_head_losses, log_loss, logged_sums
from fairseq_plugins.model_pass import check_model, is_non_autoregressive
from fairseq_plugins.workers import TrainStepWatch


@register_criterion("expected_bleu", dataclass=ExpectedBleuCriterionConfig)
class ExpectedBleuCriterion(FairseqCriterion):
    """Minimise ``1 - BLEU(expected statistics) + cross_entropy_weight * cross-entropy``.

    Both terms are means (over the corpus or its sentences; over tokens), so their ratio does not
    depend on the batch size; ``sample_size`` is the number of tokens, or of sentences with
    ``--sentence-avg``, as in fairseq's own criterions.

    For a non-autoregressive model the cross-entropy is the loss of the words in ``nat_loss``, and
    the losses of its other heads (length, placeholders, deletion) are added as ``nat_loss`` adds
    them.
    """

    def __init__(self, cfg: ExpectedBleuCriterionConfig, task: FairseqTask) -> None:
        super().__init__(task)
        check_values(cfg)
        self.settings = cfg
        self.autoregressive = AutoregressiveScores(cfg, task.target_dictionary)
        self.non_autoregressive = NonAutoregressiveScores(cfg, task)
        self.train_step = TrainStepWatch(task)

    def forward(
        self, model: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss of one batch.

        Args:
            model: a fairseq encoder-decoder model, autoregressive or not, possibly wrapped for
                data parallelism.
            sample: a batch of a translation task.
            reduce: ignored; the objective has no value per token.

        Returns:
            the loss times ``sample_size``, ``sample_size``, and the logged sums.

        Raises:
            ValueError: the model is no encoder-decoder model, has an adaptive softmax, or does
                not fit the task or the flags.
        """
        size = BatchSums.size(self.settings.max_order)
        sentences, ntokens = sample["target"].size(0), sample["ntokens"]
        sample_size = sentences if self.settings.sentence_avg else ntokens
        with self.train_step.sums([size], sample["target"].device, self.training):
            check_model(model, "expected_bleu")
            scores = self.autoregressive
            if is_non_autoregressive(model):
                scores = self.non_autoregressive
            elif "prev_target" in sample:
                raise ValueError(
                    "--task translation_lev is for non-autoregressive models; "
                    f"{type(model).__name__} is none: take --task translation"
                )
            scored = scores(model, sample, training=self.training)
            sums = BatchSums.of(scored, sample_size, self.train_step.sum_over_workers)
            loss, value = self._loss(scored, sums, sample_size)
        logged = {
            "ntokens": ntokens,
            "nsentences": sentences,
            "sample_size": sample_size,
            "loss": value,
            **scored.logged,
            **logged_sums(scored.statistics.over_corpus()),
        }
        return loss, sample_size, {name: _detached(value) for name, value in logged.items()}

    def _loss(
        self, scored: ScoredBatch, sums: BatchSums, sample_size: int
    ) -> tuple[Tensor, Tensor]:
        """This worker's part of the loss: for its gradient, and for its value.

        fairseq adds the workers' gradients, and the logged losses, and divides both by the sum of
        the sample sizes. Done so, the first has the gradient of the whole batch's objective and
        the second its value: corpus BLEU is the same number on each worker, with the gradient of
        that worker's sentences only.
        """
        smoothing = self.settings.smoothing
        if self.settings.bleu_level == "corpus":
            cost = 1 - bleu_from_statistics(*sums.statistics, smoothing=smoothing)
            loss, value = cost * sums.sample_size, cost * sample_size
        else:
            cost = (1 - bleu_from_statistics(*scored.statistics, smoothing=smoothing)).sum()
            loss = value = cost * sums.sample_size / sums.sentences.clamp(min=1)
        for added, count in zip(scored.added, sums.added_counts, strict=True):
            term = added.weight * added.total * (sums.sample_size / count.clamp(min=1))
            loss, value = loss + term, value + term
        return loss, value

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the sums of all workers."""
        log_loss(logging_outputs)
        log_head_losses(logging_outputs)
        log_expected_bleu(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All logged values are sums."""
        return True


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
