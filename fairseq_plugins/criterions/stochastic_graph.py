"""``--criterion stochastic_graph``: the decoder as a stochastic computation graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from functools import partial
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor

from criterions.stochastic_graph import ReplayingGraph, StepwiseDraws, StochasticGraph
from fairseq_plugins.flags import at_least, check_model
from fairseq_plugins.model_pass import model_pass
from fairseq_plugins.rewards import build_reward
from fairseq_plugins.stochastic_graph.batch import Batch, edited
from fairseq_plugins.stochastic_graph.config import StochasticGraphCriterionConfig
from fairseq_plugins.stochastic_graph.consistency import check_consistent
from fairseq_plugins.stochastic_graph.differentiable_costs import (
    SentenceExpectedBleu,
    token_cross_entropy,
)
from fairseq_plugins.stochastic_graph.estimators import EMITTED, FED, CriterionEstimators
from fairseq_plugins.stochastic_graph.feeding import Feeding
from fairseq_plugins.stochastic_graph.layers import (
    DrawnLayers,
    check_candidates,
    check_not_enumerated,
)
from fairseq_plugins.stochastic_graph.metrics import graph_sums, log_graph_metrics, per_sentence
from fairseq_plugins.stochastic_graph.plan import Plan, columns_of
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES
from fairseq_plugins.stochastic_graph.ranges import check_ranges, schedule_of
from fairseq_plugins.stochastic_graph.reward_cost import RewardCost
from fairseq_plugins.stochastic_graph.settings import Settings, resolve
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
        self.settings = settings = _settings_of(cfg)
        self.dictionary = task.target_dictionary
        self.sentence_avg = cfg.sentence_avg
        self.kept = at_least("--ignore-prefix-size", cfg.ignore_prefix_size, 0)
        self.train_step = TrainStepWatch(task)
        temperature = schedule_of(settings, "relaxation_temperature")
        self.estimators = CriterionEstimators(
            settings,
            temperature=temperature,
            baseline_decay=_decay(cfg.baseline_decay),
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
        self.layers = DrawnLayers(self.estimators.layers["cost"])
        self.nodes = TokenNodes(
            self.dictionary, settings.sample_temperature, self.estimators.token, self.kept
        )
        self.expected_bleu = SentenceExpectedBleu(
            self.dictionary,
            at_least("--max-order", cfg.max_order, 1),
            str(cfg.smoothing),
            self.kept,
        )
        self.reward_cost: RewardCost | None = None
        if settings.cost == "reward":
            reward = build_reward(
                settings.reward,
                level=settings.reward_level,
                task=task,
                workers=cfg.reward_workers,
                bpe=cfg.reward_remove_bpe,
                detokenizer=cfg.reward_detok,
                detokenizer_args=cfg.reward_detok_args,
                sacrebleu_tokenizer=cfg.reward_sacrebleu_tokenizer,
                max_order=cfg.max_order,
                smoothing=str(cfg.smoothing),
            )
            if settings.credit == "reward_to_go" and not reward.per_token:
                raise ValueError(
                    f"--credit reward_to_go does not go with --reward {settings.reward}: it does "
                    "not tell what each token adds; use sentence_bleu or gleu"
                )
            clip = _bounds("--reward-clip", cfg.reward_clip)
            self.reward_cost = RewardCost(
                settings, self.nodes, reward, clip, self.kept, self._sum_over_workers
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
            ValueError: the model is no encoder-decoder model, or has an adaptive softmax.
        """
        check_model(model, "stochastic_graph")
        sources = Batch.of(sample, self.dictionary)
        sentences = sample["target"].size(0)
        sample_size = sentences if self.sentence_avg else sample["ntokens"]
        logged: dict[str, Any] = {
            "ntokens": sample["ntokens"],
            "nsentences": sentences,
            "sample_size": sample_size,
        }
        share = self._share(sample_size, sentences, sample["ntokens"], like=sources)
        terms = self._training_terms if self.training else self._validation_terms
        loss, value = terms(model, sources, share, logged)
        logged["loss"] = value
        logged = {
            key: value.detach() if isinstance(value, Tensor) else value
            for key, value in logged.items()
        }
        return loss, sample_size, logged

    def _training_terms(
        self, model: Any, sources: Batch, share: Mapping[str, Any], logged: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The surrogate, and the value of what it stands for; both summed up to sample size."""
        settings, update = self.settings, self.train_step.update
        graph, logs = self._cost_graph(model, sources, update)
        scale = share["whole" if settings.cost == "cross_entropy" else "sentence"]
        loss = scale * (graph.surrogate() + graph.baseline_loss())
        statistics = graph.statistics()
        batch = sources.reference.tokens.size(0)
        costs = [cost for name, cost in statistics.items() if name.startswith("cost/")]
        value = scale * batch * sum(costs)
        logged.update(graph_sums(statistics, batch))
        logged.update(logs)
        if settings.cost != "cross_entropy" and settings.cross_entropy_weight > 0:
            within = (
                self.feeding.prefix(sources, update) if settings.teacher_prefix != "0" else None
            )
            graph, logs = self._cross_entropy_graph(model, sources, within)
            scale = share["token"] * settings.cross_entropy_weight
            loss = loss + scale * (graph.surrogate() + graph.baseline_loss())
            value = value + scale * batch * graph.statistics()["cost/cross_entropy"]
            if within is None:
                logged.update(logs)
        self.estimators.learn()
        return self.estimators.anchored(loss), value

    def _graph(
        self,
        kind: str,
        samples: int,
        draws: StepwiseDraws | None = None,
        plan: Plan | None = None,
    ) -> StochasticGraph:
        if draws is not None and plan is not None:
            return ReplayingGraph(draws, plan.number)
        return StochasticGraph(
            default_estimator=self.estimators.layers[kind],
            samples=samples,
            update=self.train_step.update,
        )

    def _cost_graph(
        self, model: Any, sources: Batch, update: int
    ) -> tuple[StochasticGraph, dict[str, Tensor]]:
        """One pass through the model with ``--cost``, recorded; what to log of it."""
        settings, feeding = self.settings, self.feeding
        batch = sources.repeated(settings.samples)
        if settings.target == "raml":
            batch = edited(batch, settings, self.dictionary, self.kept)
        draws, scored = None, feeding.decodes and feeding.scored
        if scored:
            draws = self.layers.draws(
                batch.samples, update, partial(feeding.first_step, model, batch)
            )
        plan = feeding.plan(model, batch, update, draws)
        logs: dict[str, Tensor] = {}
        if settings.cost == "reward" and settings.baseline == "greedy":
            greedy = feeding.greedy(model, sources, update)
        if settings.candidate_reference:
            assert plan is not None
            if draws is not None:
                raise ValueError(
                    "--candidate-reference does not go with stochastic layers that draw: the "
                    "reference was not decoded, and so has no outcome of theirs"
                )
            pad = self.dictionary.pad()
            plan = plan.with_references(sources.reference, sources.prev_output_tokens, pad)
            batch = sources.repeated(settings.samples + 1)
        with self._graph("cost", batch.samples, draws, plan) as graph, feeding.mode(model):
            learned = settings.baseline == "learned"
            logits, features = feeding.rows(model, batch, plan, graph, features=learned)
            if scored and self.layers.appeared(graph):
                return self._cost_graph(model, sources, update)
            if settings.cost != "cross_entropy":
                check_not_enumerated(settings.cost, logits)
            if settings.cost == "cross_entropy":
                logs = self._record_cross_entropy(graph, logits, batch, plan)
            elif settings.cost == "expected_bleu":
                self._record_expected_bleu(graph, logits, batch, plan)
            else:
                assert self.reward_cost is not None
                law = self.nodes.law(logits)
                plan = self.nodes.emitted_from(law, batch) if plan is None else plan
                record = self.reward_cost.record_sampled
                if settings.estimator == "candidate_set":
                    check_candidates(graph)
                    record = self.reward_cost.record_candidates
                logs = record(graph, law, plan, sources)
                if settings.baseline == "greedy":
                    outputs = self.reward_cost.outputs(greedy.tokens, greedy.lengths, sources)
                    rewards = self.reward_cost.reward(outputs)
                    logs["reward_greedy"] = rewards.sum()
                    graph.set_baseline_input(EMITTED, self.reward_cost.baseline(rewards))
                logs = per_sentence(logs)
            if learned:
                expected = self.estimators.token.baseline.features
                if features.size(-1) != expected:
                    raise ValueError(
                        f"--baseline-state-dim must be {features.size(-1)}, the size of this "
                        f"decoder's state; got {expected}"
                    )
                node = FED if settings.cost != "reward" else EMITTED
                graph.set_baseline_input(node, features)
        return graph, logs

    def _record_cross_entropy(
        self, graph: StochasticGraph, logits: Tensor, batch: Batch, plan: Plan | None
    ) -> dict[str, Tensor]:
        settings, target = self.settings, batch.reference.tokens
        columns = columns_of(target)
        scored = plan is not None and settings.estimator == "score_function"
        if plan is not None and scored:
            # The last token is fed to no one.
            fed = plan.free & (columns < batch.reference.rows.unsqueeze(1) - 1)
            self.nodes.record(graph, FED, self.nodes.law(logits), plan.emitted, fed)
        # Enumerated layers put axes of their values in front.
        targets = target.expand(logits.shape[:-1])
        loss, plain = token_cross_entropy(logits, targets, settings.label_smoothing)
        counts = batch.exists & (columns >= self.kept)
        graph.cost("cross_entropy", loss, mask=counts, before=[FED] if scored else [])
        if settings.feed != "teacher" or settings.target != "reference" or plain.dim() > 2:
            return {}
        return {"nll_loss": plain.detach().masked_fill(~counts, 0).sum()}

    def _record_expected_bleu(
        self, graph: StochasticGraph, logits: Tensor, batch: Batch, plan: Plan | None
    ) -> None:
        number = batch.reference.rows if plan is None else plan.number
        if plan is not None and self.settings.estimator == "score_function":
            # The last token, too: whether it is </s> decides on how many rows there are.
            self.nodes.record(graph, FED, self.nodes.law(logits), plan.emitted, plan.free)
        graph.cost("expected_bleu", 1 - self.expected_bleu(logits, batch, number))

    def _cross_entropy_graph(
        self, model: Any, sources: Batch, within: Tensor | None
    ) -> tuple[StochasticGraph, dict[str, Tensor]]:
        """A teacher-forced pass; ``within`` ``[batch, tgt_len]``: the tokens that count."""
        with self._graph("cross_entropy", 1) as graph:
            logits = model_pass(model, sources.net_input, sources.prev_output_tokens).logits
            target = sources.reference.tokens
            loss, plain = token_cross_entropy(logits, target, self.settings.label_smoothing)
            counts = sources.exists & (columns_of(target) >= self.kept)
            if within is not None:
                counts = counts & within
            graph.cost("cross_entropy", loss, mask=counts)
        return graph, {"nll_loss": plain.detach().masked_fill(~counts, 0).sum()}

    def _validation_terms(
        self, model: Any, sources: Batch, share: Mapping[str, Any], logged: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The same cost of what the model does deterministically: greedy, outside any graph."""
        settings, target = self.settings, sources.reference.tokens
        logits = model_pass(model, sources.net_input, sources.prev_output_tokens).logits
        loss, plain = token_cross_entropy(logits, target, settings.label_smoothing)
        ignored = ~sources.exists | (columns_of(target) < self.kept)
        logged["nll_loss"] = plain.masked_fill(ignored, 0).sum()
        loss = loss.masked_fill(ignored, 0).sum()
        if settings.cost == "cross_entropy":
            return share["whole"] * loss, share["whole"] * loss
        logs: dict[str, Tensor] = {}
        if settings.cost == "expected_bleu":
            values = self.expected_bleu(logits, sources, sources.reference.rows)
            logs["expected_bleu"] = values.sum()
            costs = 1 - values
        else:
            assert self.reward_cost is not None
            greedy = self.feeding.greedy(model, sources, update=None)
            outputs = self.reward_cost.outputs(greedy.tokens, greedy.lengths, sources)
            rewards = self.reward_cost.reward(outputs)
            logs["reward_greedy"] = rewards.sum()
            logs["sample_length"] = outputs.lengths.sum()
            costs = 1 - rewards
        logged.update(per_sentence(logs))
        value = share["sentence"] * costs.sum()
        value = value + share["token"] * settings.cross_entropy_weight * loss
        return value, value

    def _share(
        self, sample_size: int, sentences: int, ntokens: int, like: Batch
    ) -> dict[str, Tensor | float]:
        """Factors that make sums a worker's share of the whole batch's mean times sample size.

        fairseq adds the workers' gradients and divides by the sum of their sample sizes.
        ``sentence``: of sums over sentences; ``token``: of sums over tokens; ``whole``: 1, for the
        cross-entropy alone, which fairseq's own criterions give as the sum.
        """
        sizes = torch.cat(
            # Filled on the device: a tensor made of a list would be copied from the host.
            [
                torch.full((1,), float(size), device=like.prev_output_tokens.device)
                for size in (sample_size, sentences, ntokens)
            ]
        )
        if self.training:
            sizes = self._sum_over_workers(sizes)
        whole, all_sentences, all_tokens = sizes
        return {
            "whole": 1.0,
            "sentence": whole / all_sentences.clamp(min=1),
            "token": whole / all_tokens.clamp(min=1) if self.sentence_avg else 1.0,
        }

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


def _settings_of(cfg: StochasticGraphCriterionConfig) -> Settings:
    """The objective's point, with the flags that were given besides."""
    axes = {field.name for field in fields(Settings)}
    values = {
        # fairseq hands choices over as enumeration members.
        field.name: str(value) if isinstance(value, Enum) else value
        for field in fields(StochasticGraphCriterionConfig)
        for value in [getattr(cfg, field.name)]
    }
    options = {name: value for name, value in values.items() if name not in axes}
    given = {name: values[name] for name in axes if values[name] is not None}
    # What has a default of its own cannot be told from a flag that was given with that value.
    changed = {
        field.name
        for field in fields(StochasticGraphCriterionConfig)
        if field.name in options and options[field.name] != field.default
    }
    settings = resolve(OBJECTIVES[values["objective"]].flags, given)
    check_consistent(settings, given.keys() | changed, options)
    check_ranges(settings)
    return settings


def _bounds(flag: str, text: str | None) -> tuple[float | None, float | None]:
    """``LOW:HIGH``, either of which may be left out."""
    if text is None:
        return None, None
    try:
        low, high = (float(part) if part else None for part in text.split(":"))
    except ValueError:
        raise ValueError(f"{flag} must be LOW:HIGH, such as 0:1 or -2:; got {text!r}") from None
    if low is not None and high is not None and not low < high:
        raise ValueError(f"{flag}: the lower bound must be below the upper one; got {text!r}")
    return low, high


def _decay(value: float) -> float:
    if at_least("--baseline-decay", value, 0) >= 1:
        raise ValueError(f"--baseline-decay must be below 1; got {value}")
    return value
