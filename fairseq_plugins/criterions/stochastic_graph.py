"""``--criterion stochastic_graph``: the decoder as a stochastic computation graph."""

from __future__ import annotations

import logging
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor

from criterions.stochastic_graph import StochasticGraph
from fairseq_plugins.flags import at_least, below_1, check_autoregressive, check_model
from fairseq_plugins.stochastic_graph.batch import Batch
from fairseq_plugins.stochastic_graph.config import StochasticGraphCriterionConfig
from fairseq_plugins.stochastic_graph.cost_pass import CostPass
from fairseq_plugins.stochastic_graph.differentiable_costs import SentenceExpectedBleu
from fairseq_plugins.stochastic_graph.estimators import CriterionEstimators
from fairseq_plugins.stochastic_graph.feeding import Feeding
from fairseq_plugins.stochastic_graph.from_flags import (
    bounds_of,
    reward_of,
    settings_of,
)
from fairseq_plugins.stochastic_graph.layers import DrawnLayers
from fairseq_plugins.stochastic_graph.metrics import (
    graph_sums,
    log_graph_metrics,
    observed_sums,
    per_sentence,
)
from fairseq_plugins.stochastic_graph.ranges import schedule_of
from fairseq_plugins.stochastic_graph.reward_cost import RewardCost
from fairseq_plugins.stochastic_graph.shares import Shares
from fairseq_plugins.stochastic_graph.teacher_pass import TeacherPass
from fairseq_plugins.stochastic_graph.token_nodes import TokenNodes
from fairseq_plugins.workers import TrainStepWatch, sum_over_workers

logger = logging.getLogger(__name__)


@register_criterion("stochastic_graph", dataclass=StochasticGraphCriterionConfig)
class StochasticGraphCriterion(FairseqCriterion):
    """Minimise the expected cost of the decoder's output, plus a weighted cross-entropy.

    The cost is a mean (over the batch's sentences; for the cross-entropy over its tokens), and the
    loss that fairseq gets is that mean times ``sample_size``, whatever the number of workers.
    """

    def __init__(self, cfg: StochasticGraphCriterionConfig, task: FairseqTask) -> None:
        super().__init__(task)
        self.settings = settings = settings_of(cfg)
        self.dictionary = task.target_dictionary
        self.sentence_avg = cfg.sentence_avg
        self.kept = at_least("--ignore-prefix-size", cfg.ignore_prefix_size, 0)
        self.train_step = TrainStepWatch(task)
        temperature = schedule_of(settings, "relaxation_temperature")
        self.estimators = CriterionEstimators(
            settings,
            temperature=temperature,
            baseline_decay=below_1("--baseline-decay", cfg.baseline_decay),
            baseline_state_dim=at_least("--baseline-state-dim", cfg.baseline_state_dim, 1),
            layer_estimator=str(cfg.layer_estimator),
            layer_baseline=str(cfg.layer_baseline),
            train_step=self.train_step,
        )
        self.feeding = Feeding(
            settings,
            teacher_forcing=schedule_of(settings, "teacher_forcing"),
            teacher_prefix=schedule_of(settings, "teacher_prefix"),
            temperature=temperature,
            relaxed=self.estimators.relaxed,
            dictionary=self.dictionary,
            ratio=at_least("--max-decode-ratio", cfg.max_decode_ratio, 0),
            longest=at_least("--max-decode-length", cfg.max_decode_length, 1),
            kept=self.kept,
        )
        nodes = TokenNodes(
            self.dictionary, settings.sample_temperature, self.estimators.token, self.kept
        )
        expected_bleu = SentenceExpectedBleu(
            self.dictionary,
            at_least("--max-order", cfg.max_order, 1),
            str(cfg.smoothing),
            self.kept,
        )
        reward = reward_of(cfg, settings, task)
        reward_cost = None
        if reward is not None:
            clip = bounds_of("--reward-clip", cfg.reward_clip)
            reward_cost = RewardCost(
                settings, nodes, reward, clip, self.kept, self._sum_over_workers
            )
        self.cost_pass = CostPass(
            settings,
            self.dictionary,
            self.estimators,
            self.feeding,
            DrawnLayers(self.estimators.layers["cost"]),
            nodes,
            expected_bleu,
            reward_cost,
            self.kept,
        )

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
        check_model(model, "stochastic_graph")
        check_autoregressive(model, "stochastic_graph")
        sources = Batch.of(sample, self.dictionary)
        sentences = sample["target"].size(0)
        sample_size = sentences if self.sentence_avg else sample["ntokens"]
        logged: dict[str, Any] = {
            "ntokens": sample["ntokens"],
            "nsentences": sentences,
            "sample_size": sample_size,
        }
        shares = Shares.of(
            sample_size,
            sentences,
            sample["ntokens"],
            sentence_avg=self.sentence_avg,
            device=sources.prev_output_tokens.device,
            # Validation is not in step: a worker may have fewer batches than another.
            sum_over_workers=self._sum_over_workers if self.training else torch.Tensor.detach,
        )
        terms = self._training_terms if self.training else self._validation_terms
        loss, value, logs = terms(model, sources, shares)
        logged.update(logs, loss=value)
        logged = {
            key: value.detach() if isinstance(value, Tensor) else value
            for key, value in logged.items()
        }
        return loss, sample_size, logged

    def _training_terms(
        self, model: Any, sources: Batch, shares: Shares
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The surrogate, the value of what it stands for, both as shares; and what to log."""
        settings, update = self.settings, self.train_step.update
        batch = sources.reference.tokens.size(0)
        graph, logs = self.cost_pass.graph(model, sources, update)
        share = shares.alone if settings.cost == "cross_entropy" else shares.per_sentence
        statistics = graph.statistics()
        loss, value = _terms_of(graph, statistics, share, batch)
        logs = {**graph_sums(statistics, batch), **logs}
        if settings.cost != "cross_entropy" and settings.cross_entropy_weight > 0:
            graph, teacher_logs = self._teacher_graph(model, sources, update)
            share = shares.per_token * settings.cross_entropy_weight
            statistics = graph.statistics()
            added_loss, added_value = _terms_of(graph, statistics, share, batch)
            loss, value = loss + added_loss, value + added_value
            logs.update(teacher_logs, **observed_sums(statistics, batch))
        self.estimators.learn()
        return self.estimators.anchored(loss), value, logs

    def _teacher_graph(
        self, model: Any, sources: Batch, update: int
    ) -> tuple[StochasticGraph, dict[str, Tensor]]:
        """The cross-entropy that is added to another cost, over the teacher's prefix if any."""
        layers = self.estimators.layers["cross_entropy"]
        with StochasticGraph(default_estimator=layers, update=update) as graph:
            teacher = self._teacher_pass(model, sources)
            if self.settings.teacher_prefix == "0":
                counts, logs = teacher.counts, teacher.logs
            else:
                counts, logs = teacher.counts & self.feeding.prefix(sources, update), {}
            graph.cost("cross_entropy", teacher.loss, mask=counts)
        return graph, logs

    def _validation_terms(
        self, model: Any, sources: Batch, shares: Shares
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The same cost of what the model does deterministically: greedy, outside any graph."""
        settings = self.settings
        teacher = self._teacher_pass(model, sources)
        cross_entropy = teacher.total(teacher.loss)
        if settings.cost == "cross_entropy":
            value = shares.alone * cross_entropy
            return value, value, teacher.logs
        logs: dict[str, Tensor] = {}
        reward_cost = self.cost_pass.reward_cost
        if reward_cost is None:
            number = sources.reference.rows
            values = self.cost_pass.expected_bleu(teacher.logits, sources, number)
            logs["expected_bleu"] = values.sum()
        else:
            greedy = self.feeding.greedy(model, sources, update=None)
            values = reward_cost.rewards(greedy.tokens, greedy.lengths, sources)
            logs["reward_greedy"] = values.sum()
            logs["sample_length"] = (greedy.lengths - self.kept).clamp(min=0).sum()
        value = shares.per_sentence * (1 - values).sum()
        value = value + shares.per_token * settings.cross_entropy_weight * cross_entropy
        return value, value, {**teacher.logs, **per_sentence(logs)}

    def _teacher_pass(self, model: Any, sources: Batch) -> TeacherPass:
        return TeacherPass.through(model, sources, self.settings.label_smoothing, self.kept)

    def _sum_over_workers(self, local: Tensor) -> Tensor:
        return sum_over_workers(local * self.train_step.weight)

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
        """Log the sums of all workers; see :func:`log_graph_metrics`."""
        log_graph_metrics(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All logged values are sums."""
        return True


def _terms_of(
    graph: StochasticGraph, statistics: dict[str, Tensor], share: Tensor | float, batch: int
) -> tuple[Tensor, Tensor]:
    """The surrogate of a graph, and the value of its costs, both as shares."""
    costs = [cost for name, cost in statistics.items() if name.startswith("cost/")]
    return share * (graph.surrogate() + graph.baseline_loss()), share * batch * sum(costs)
