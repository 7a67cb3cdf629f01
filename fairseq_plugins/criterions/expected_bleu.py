"""``--criterion expected_bleu``: train on the expected BLEU of the decoder's distribution."""

from __future__ import annotations

from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_plugins.bleu_metrics import log_expected_bleu, logged_sums
from fairseq_plugins.expected_bleu.autoregressive import AutoregressiveScores
from fairseq_plugins.expected_bleu.config import ExpectedBleuCriterionConfig, settings_of
from fairseq_plugins.expected_bleu.non_autoregressive import NonAutoregressiveScores
from fairseq_plugins.expected_bleu.objective import added_losses, bleu_loss, whole_batch
from fairseq_plugins.flags import check_model, is_non_autoregressive
from fairseq_plugins.loss_metrics import log_head_losses, log_loss
from fairseq_plugins.workers import TrainStepWatch

__all__ = ["ExpectedBleuCriterion", "ExpectedBleuCriterionConfig"]


@register_criterion("expected_bleu", dataclass=ExpectedBleuCriterionConfig)
class ExpectedBleuCriterion(FairseqCriterion):
    """Minimise ``1 - BLEU(expected statistics) + cross_entropy_weight * cross-entropy``.

    Both terms are means (over the corpus or its sentences; over tokens), so their ratio does not
    depend on the batch size; ``sample_size`` is the number of tokens, or of sentences with
    ``--sentence-avg``, as in fairseq's own criterions.

    Of a non-autoregressive model the cross-entropy is the loss of the words in ``nat_loss``, and
    the losses of its other heads (length, placeholders, deletion) are added as ``nat_loss`` adds
    them.
    """

    def __init__(self, cfg: ExpectedBleuCriterionConfig, task: FairseqTask) -> None:
        super().__init__(task)
        self.settings = settings_of(cfg)
        dictionary = task.target_dictionary
        noise = getattr(getattr(task, "cfg", None), "noise", None)
        self.autoregressive = AutoregressiveScores(self.settings, dictionary)
        self.non_autoregressive = NonAutoregressiveScores(
            self.settings, dictionary, None if noise is None else str(noise)
        )
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
            the loss summed up to ``sample_size``, ``sample_size``, and the logged sums.

        Raises:
            ValueError: the model is no encoder-decoder model, has an adaptive softmax, or does
                not fit the task or the flags.
        """
        check_model(model, "expected_bleu")
        scores = self.autoregressive
        if is_non_autoregressive(model):
            scores = self.non_autoregressive
        elif "prev_target" in sample:
            raise ValueError(
                f"--task translation_lev is for non-autoregressive models; {type(model).__name__} "
                "is none: take --task translation"
            )
        scored = scores(model, sample, training=self.training)

        sentences, ntokens = sample["target"].size(0), sample["ntokens"]
        sample_size = sentences if self.settings.sentence_avg else ntokens
        corpus = scored.statistics.over_corpus()
        worker_weight = self.train_step.weight if self.training else None
        batch = whole_batch(scored, corpus, sample_size, worker_weight)
        loss, logged_loss = bleu_loss(scored.statistics, batch, sample_size, self.settings)
        added = added_losses(scored.added, batch)
        loss, logged_loss = loss + added, logged_loss + added
        logged = {
            "ntokens": ntokens,
            "nsentences": sentences,
            "sample_size": sample_size,
            "loss": logged_loss,
            **scored.logged,
            **logged_sums(corpus),
        }
        logged = {
            key: value.detach() if isinstance(value, Tensor) else value
            for key, value in logged.items()
        }
        return loss, sample_size, logged

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the sums of all workers.

        See :func:`log_loss`, :func:`log_head_losses` and :func:`log_expected_bleu`.
        """
        log_loss(logging_outputs)
        log_head_losses(logging_outputs)
        log_expected_bleu(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All logged values are sums."""
        return True
