"""``--criterion stochastic_graph``: the decoder as a stochastic computation graph."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor

from criterions.stochastic_graph import StochasticGraph
from fairseq_plugins.batch import Batch
from fairseq_plugins.decoding import evaluation_mode
from fairseq_plugins.metrics import log_loss
from fairseq_plugins.model_pass import check_model, model_pass
from fairseq_plugins.optimizer_state import load_state_of_other_criterions
from fairseq_plugins.parallel_training import check_parallel_training
from fairseq_plugins.stochastic_graph.config import StochasticGraphCriterionConfig, resolve
from fairseq_plugins.stochastic_graph.consistency import check_consistent
from fairseq_plugins.stochastic_graph.costs import COSTS, Cost
from fairseq_plugins.stochastic_graph.costs.cross_entropy_cost import TokenLosses
from fairseq_plugins.stochastic_graph.node_estimators import EMITTED, FED, CriterionEstimators
from fairseq_plugins.stochastic_graph.rollout import Rollout, Rollouts
from fairseq_plugins.stochastic_graph.scored_pass import ScoredPass, ScoredPasses
from fairseq_plugins.stochastic_graph.state_size import decoder_state_size
from fairseq_plugins.workers import TrainStepWatch

logger = logging.getLogger(__name__)

# A key of the logging output that is a sum over sentences, and logged as their mean.
_PER_SENTENCE = "per_sentence/"


@register_criterion("stochastic_graph", dataclass=StochasticGraphCriterionConfig)
class StochasticGraphCriterion(FairseqCriterion):
    """Minimise the expected cost of the decoder's output, plus a weighted cross-entropy.

    The cost is a mean (over the batch's sentences; for the cross-entropy over its tokens), and the
    loss that fairseq gets is that mean times ``sample_size``, whatever the number of workers.
    """

    def __init__(self, cfg: StochasticGraphCriterionConfig, task: FairseqTask) -> None:
        super().__init__(task)
        check_parallel_training(cfg, "stochastic_graph", decodes=True)
        self.settings, given = resolve(cfg)
        check_consistent(self.settings, given)
        self.dictionary = task.target_dictionary
        self.train_step = TrainStepWatch(task)
        self.estimators = CriterionEstimators(
            self.settings,
            self.train_step,
            state_size=lambda: decoder_state_size(task, "stochastic_graph"),
        )
        parts = (self.settings, self.estimators, self.dictionary)
        self.rollouts, self.passes = Rollouts(*parts), ScoredPasses(*parts)
        self.cost: Cost = COSTS.create(
            self.settings.cost, self.settings, task, self.train_step.sum_over_workers
        )
        self._adds_cross_entropy = (
            not self.cost.per_token and self.settings.cross_entropy_weight > 0
        )
        # Not in a pass without dropout, nor with a cost that is compared with the greedy output's.
        no_dropout = self.settings.scores_tokens and self.settings.sample_dropout == "off"
        self._in_one_pass = self.settings.feed == "teacher" and not (
            no_dropout or self.estimators.compare_with_greedy
        )
        self._layers_ask = True
        load_state_of_other_criterions(self)

    def forward(
        self, model: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Loss of one batch; its gradient estimates that of the expected cost.

        Args:
            model: a fairseq encoder-decoder model, possibly wrapped for data parallelism.
            sample: a batch of a translation task.
            reduce: ignored; the objective has no value per token.

        Returns:
            the surrogate loss, ``sample_size``, and the logged sums, among them the value of what
            is minimised.

        Raises:
            ValueError: the model is no autoregressive encoder-decoder model, or has an adaptive
                softmax.
        """
        # Of sizes, of rewards that are normalised, and of what moving averages learn.
        normalized = [3] if self.settings.reward_normalization == "batch" else []
        learned = [size] if (size := self.estimators.learned_size) else []
        announced = [3, *normalized, *learned]
        sentences, device = sample["target"].size(0), sample["target"].device
        sample_size = sentences if self.settings.sentence_avg else sample["ntokens"]
        with self.train_step.sums(announced, device, self.training):
            check_model(model, "stochastic_graph", autoregressive=True)
            sources = Batch.of(sample, self.dictionary, self.settings.ignore_prefix_size)
            # Filled on the device: a tensor made of a list would be copied from the host.
            sizes = torch.empty(3, device=device)
            for position, size in enumerate((sample_size, sentences, sample["ntokens"])):
                sizes[position].fill_(float(size))
            whole, *counts = self.train_step.sum_over_workers(sizes)
            # fairseq adds the workers' gradients and divides by the sum of their sample sizes.
            per_sentence, per_token = (whole / count.clamp(min=1) for count in counts)
            step = self._training_step if self.training else self._validation_step
            loss, value, logs = step(model, sources, per_sentence, per_token)
        logged = {
            "ntokens": sample["ntokens"],
            "nsentences": sentences,
            "sample_size": sample_size,
            **logs,
            "loss": value,
        }
        logged = {
            key: value.detach() if isinstance(value, Tensor) else value
            for key, value in logged.items()
        }
        return loss, sample_size, logged

    def _training_step(
        self, model: Any, sources: Batch, per_sentence: Tensor, per_token: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The surrogate loss, the value of what it stands for, and what to log.

        ``per_sentence`` and ``per_token`` are the factors with which sums over this worker's
        sentences and tokens add up to the whole batch's mean times sample size.
        """
        self.estimators.begin()
        update, batch = self.train_step.update, sources.reference.tokens.size(0)
        rollout, done = self._scored_rollout(model, sources, update)
        greedy = None
        if self.estimators.compare_with_greedy:
            greedy = self.rollouts.greedy(model, sources, update)
        teacher = None
        if self._adds_cross_entropy and not self._in_one_pass:
            teacher, losses, teacher_logs = self._teacher_graph(model, sources, update)
        if self.estimators.expects_costs:
            if teacher is None:
                with torch.no_grad(), evaluation_mode(model):
                    losses = self._teacher_graph(model, sources, update)[1]
            rollout = replace(rollout, right=losses.probabilities)
        recorded = self.cost.record(done, rollout, greedy)
        token_logs: dict[str, Tensor] = {}
        if self._adds_cross_entropy and self._in_one_pass:
            losses = TokenLosses.of(done.logits, rollout.batch, self.settings.label_smoothing)
            # Finite also where no worker has a batch that counts, and the factor of all is 0.
            ratio = per_token / per_sentence.clamp(min=1e-6)
            weight = self.settings.cross_entropy_weight * ratio
            # No emitted token is fed, so that none of them has part in it.
            layers = {node.name for node in done.layers}
            done.graph.cost(
                "cross_entropy", weight * losses.smoothed, mask=losses.counts, parents=layers
            )
            token_logs = {
                name: total / rollout.batch.samples for name, total in losses.logs.items()
            }
        factor: Tensor | float = 1.0 if self.cost.per_token else per_sentence
        loss, value, logs = _summed(done.graph, factor, batch)
        prefix = "" if self.cost.per_token else _PER_SENTENCE
        for name, total in recorded.items():
            logs[prefix + name] = total
        logs.update(token_logs)
        if teacher is not None:
            weight = self.settings.cross_entropy_weight
            added_loss, added_value, observed = _summed(teacher, per_token, batch, only="observed")
            loss, value = loss + weight * added_loss, value + weight * added_value
            logs.update(teacher_logs, **observed)
        self.estimators.learn()
        return self.estimators.anchored(loss), value, logs

    def _scored_rollout(
        self, model: Any, sources: Batch, update: int
    ) -> tuple[Rollout, ScoredPass]:
        """What the decoder is fed and emits, and the pass with gradient over it.

        After a batch in which no layer of the model asked for a sample, the next one is decoded
        without draws.  If a layer asks there all the same, it is done again.
        """
        settings = self.settings
        scored = settings.scores_tokens and settings.feed in ("greedy", "sample")
        rollout = self.rollouts.of(model, sources, update, replay=self._layers_ask)
        asked = rollout.draws is not None and rollout.draws.asked
        in_pieces = scored and not self.cost.reads_logits and not asked
        done = self.passes.of(model, rollout, update, in_pieces=in_pieces)
        self._layers_ask = asked or done.graph.asked
        without_draws = scored and rollout.draws is None
        if done.graph.asked and (without_draws or done.positions is not None):
            if without_draws:
                rollout = self.rollouts.of(model, sources, update)
            done = self.passes.of(model, rollout, update)
        if done.positions is None and done.logits.dim() != 3 and not self.cost.bears_enumeration:
            raise ValueError(
                f"--cost {self.settings.cost} does not go with --layer-estimator enumeration (the "
                f"decoder's logits have shape {list(done.logits.shape)}): use --cost "
                "cross_entropy, or another estimator"
            )
        return rollout, done

    def _validation_step(
        self, model: Any, sources: Batch, per_sentence: Tensor, per_token: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The same of what the model does deterministically, outside any graph."""
        logits = model_pass(model, sources.net_input, sources.prev_output_tokens)
        costs, logs = self.cost.validate(
            sources, logits, lambda: self.rollouts.greedy(model, sources, update=None)
        )
        value = costs.sum()
        if not self.cost.per_token:
            losses = TokenLosses.of(logits, sources, self.settings.label_smoothing)
            weight = self.settings.cross_entropy_weight
            value = per_sentence * value + per_token * (weight * losses.total(losses.smoothed))
            logs = {_PER_SENTENCE + name: total for name, total in logs.items()}
            logs.update(losses.logs)
        return value, value, logs

    def _teacher_graph(
        self, model: Any, sources: Batch, update: int
    ) -> tuple[StochasticGraph, TokenLosses, dict[str, Tensor]]:
        """The cross-entropy that is added to another cost, over the teacher's prefix if any."""
        layers = self.estimators.layers["cross_entropy"]
        with StochasticGraph(default_estimator=layers, update=update) as graph:
            logits = model_pass(model, sources.net_input, sources.prev_output_tokens)
        losses = TokenLosses.of(logits, sources, self.settings.label_smoothing)
        counts, logs = losses.counts, losses.logs
        if self.settings.teacher_prefix != "0":
            counts, logs = counts & self.rollouts.forced_prefix(sources, update), {}
        graph.cost("cross_entropy", losses.smoothed, mask=counts)
        return graph, losses, logs

    def load_state_dict(self, state_dict: Any, strict: bool = True, **options: Any) -> Any:
        """Load what fits: the checkpoint may be that of another objective.

        Of a criterion without state it has None.  What is not in it starts anew, and the log says
        so.
        """
        own, given = self.state_dict(), state_dict or {}
        fitting = {
            name: value
            for name, value in given.items()
            if name in own and own[name].shape == value.shape
        }
        if anew := sorted(own.keys() - fitting.keys()):
            logger.warning(
                "the checkpoint is that of another objective: %s start anew", ", ".join(anew)
            )
        return super().load_state_dict({**own, **fitting}, strict, **options)

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the sums of all workers: :func:`log_loss`, and the rest as means over sentences."""
        log_loss(logging_outputs)
        sentences = sum(log["nsentences"] for log in logging_outputs)
        keys = {key for log in logging_outputs for key in log if key.startswith(_PER_SENTENCE)}
        for key in sorted(keys):
            total = sum(log.get(key, 0) for log in logging_outputs)
            name = key.removeprefix(_PER_SENTENCE)
            metrics.log_scalar(name, total / sentences, sentences, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All logged values are sums."""
        return True


def _summed(
    graph: StochasticGraph, factor: Tensor | float, sentences: int, only: str | None = None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """A graph's surrogate loss, the value of its costs, and its statistics, all sums.

    Logged are of the tokens: ``entropy`` (nats), ``log_prob``, ``baseline``, ``advantage``,
    ``advantage_variance``.  Of a stochastic layer the same, with ``_NAME`` behind.  What a layer
    observed has its own name.

    Args:
        graph: with its costs.
        factor: of loss and value.
        sentences: of the batch.
        only: the one kind of statistics to log.
    """
    cost: Tensor | int = 0
    logs = {}
    for key, mean in graph.statistics().items():
        kind, name = key.split("/", 1)
        if kind == "cost":
            cost = cost + mean
        elif kind != "downstream" and only in (None, kind):
            label = kind if name in (EMITTED, FED) else f"{kind}_{name}"
            logs[_PER_SENTENCE + (name if kind == "observed" else label)] = mean * sentences
    return factor * (graph.surrogate() + graph.baseline_loss()), factor * sentences * cost, logs
