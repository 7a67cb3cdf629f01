"""One pass through the model with the objective's cost, recorded in a graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from fairseq.data import Dictionary
from torch import Tensor

from criterions.stochastic_graph import (
    ReplayingGraph,
    StepwiseDraws,
    StochasticGraph,
    UnexpectedDrawError,
)
from fairseq_plugins.reference_prefix import given_reference
from fairseq_plugins.stochastic_graph.batch import Batch, edited
from fairseq_plugins.stochastic_graph.differentiable_costs import (
    SentenceExpectedBleu,
    token_cross_entropy,
)
from fairseq_plugins.stochastic_graph.estimators import EMITTED, FED, CriterionEstimators
from fairseq_plugins.stochastic_graph.feeding import Feeding
from fairseq_plugins.stochastic_graph.layers import (
    DrawnLayers,
    check_candidates,
    check_layers_have_scores,
    check_not_enumerated,
    check_something_drawn,
    encoder_draws_nothing,
    set_greedy_baselines,
)
from fairseq_plugins.stochastic_graph.metrics import per_sentence
from fairseq_plugins.stochastic_graph.plan import Plan, columns_of
from fairseq_plugins.stochastic_graph.reward_cost import RewardCost
from fairseq_plugins.stochastic_graph.settings import Settings
from fairseq_plugins.stochastic_graph.token_nodes import TokenNodes


@dataclass(frozen=True)
class CostPass:
    """Decode what is to be fed, run the model on it, record tokens and cost.

    ``settings``: the objective.
    ``dictionary``: of the target language.
    ``estimators``: of all nodes.
    ``feeding``, ``layers``, ``nodes``: of the decoder's tokens, and the model's own layers.
    ``expected_bleu``: cost of the decoder's distributions.
    ``reward_cost``: cost of whole outputs, or None.
    ``kept``: tokens at the start of every output that do not count.
    """

    settings: Settings
    dictionary: Dictionary
    estimators: CriterionEstimators
    feeding: Feeding
    layers: DrawnLayers
    nodes: TokenNodes
    expected_bleu: SentenceExpectedBleu
    reward_cost: RewardCost | None
    kept: int

    def graph(
        self, model: Any, sources: Batch, update: int
    ) -> tuple[StochasticGraph, dict[str, Tensor]]:
        """Record one batch.

        Args:
            model: in training mode.
            sources: the batch, with one row for each source.
            update: its number, for schedules.

        Returns:
            the graph, still open; what to log of it.
        """
        settings, feeding = self.settings, self.feeding
        batch = sources.repeated(settings.samples)
        if settings.target == "raml":
            batch = edited(batch, settings, self.dictionary, self.kept)
        draws, scored = None, feeding.decodes and feeding.scored
        if scored:
            first_step = partial(feeding.first_step, model, batch)
            draws = self.layers.draws(batch.samples, update, first_step)
        try:
            plan = feeding.plan(model, batch, update, draws)
        except UnexpectedDrawError:
            self.layers.expect()
            return self.graph(model, sources, update)
        baseline = self._greedy_rewards(model, sources, update)
        if settings.candidate_reference:
            plan, batch = self._with_references(plan, sources, draws)
        with (
            self._opened(batch.samples, update, draws, plan) as graph,
            feeding.mode(model),
            given_reference(batch.prev_output_tokens),
        ):
            learned = settings.baseline == "learned"
            with encoder_draws_nothing(model, graph, batch.samples):
                logits, states = feeding.rows(model, batch, plan, graph, features=learned)
            if scored and self.layers.appeared(graph):
                return self.graph(model, sources, update)
            if settings.samples_layers_only:
                check_something_drawn(graph, batch.samples)
            if settings.cost != "cross_entropy":
                check_not_enumerated(settings.cost, logits)
            if settings.cost == "cross_entropy":
                logs = self._record_cross_entropy(graph, logits, batch, plan)
            elif settings.cost == "expected_bleu":
                logs = self._record_expected_bleu(graph, logits, batch, plan)
            else:
                logs = self._record_reward(graph, logits, batch, plan, sources, baseline)
            if states is not None:
                self.estimators.check_state(states)
                node = EMITTED if settings.cost == "reward" else FED
                graph.set_baseline_input(node, states)
        return graph, logs

    def _opened(
        self, samples: int, update: int, draws: StepwiseDraws | None, plan: Plan | None
    ) -> StochasticGraph:
        if draws is not None and draws.may_draw and plan is not None:
            return ReplayingGraph(draws, plan.number)
        layers = self.estimators.layers["cost"]
        return StochasticGraph(default_estimator=layers, samples=samples, update=update)

    def _greedy_rewards(self, model: Any, sources: Batch, update: int) -> Tensor | None:
        """``[batch]``: where it is a baseline, of the greedy output, for which no layer draws."""
        if self.settings.baseline != "greedy" and not self.estimators.compares_layers_with_greedy:
            return None
        assert self.reward_cost is not None
        greedy = self.feeding.greedy(model, sources, update)
        return self.reward_cost.rewards(greedy.tokens, greedy.lengths, sources)

    def _with_references(
        self, plan: Plan | None, sources: Batch, draws: StepwiseDraws | None
    ) -> tuple[Plan, Batch]:
        """The candidates and, as one more for each source, the reference."""
        assert plan is not None
        if draws is not None and draws.may_draw:
            raise ValueError(
                "--candidate-reference does not go with stochastic layers that draw: the "
                "reference was not decoded, and so has no outcome of theirs"
            )
        pad = self.dictionary.pad()
        plan = plan.with_references(sources.reference, sources.prev_output_tokens, pad)
        return plan, sources.repeated(self.settings.samples + 1)

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
        loss, plain = token_cross_entropy(logits, target, settings.label_smoothing)
        counts = batch.exists & (columns >= self.kept)
        graph.cost("cross_entropy", loss, mask=counts, before=[FED] if scored else [])
        if settings.feed != "teacher" or settings.target != "reference" or plain.dim() > 2:
            return {}
        return {"nll_loss": plain.detach().masked_fill(~counts, 0).sum() / batch.samples}

    def _record_expected_bleu(
        self, graph: StochasticGraph, logits: Tensor, batch: Batch, plan: Plan | None
    ) -> dict[str, Tensor]:
        number = batch.reference.rows if plan is None else plan.number
        if plan is not None and self.settings.estimator == "score_function":
            # The last token, too: whether it is </s> decides on how many rows there are.
            self.nodes.record(graph, FED, self.nodes.law(logits), plan.emitted, plan.free)
        graph.cost("expected_bleu", 1 - self.expected_bleu(logits, batch, number))
        return {}

    def _record_reward(
        self,
        graph: StochasticGraph,
        logits: Tensor,
        batch: Batch,
        plan: Plan | None,
        sources: Batch,
        greedy: Tensor | None,
    ) -> dict[str, Tensor]:
        assert self.reward_cost is not None
        greedily = self.settings.emits_greedily
        law = None if greedily and plan is not None else self.nodes.law(logits)
        if plan is None:
            plan = self.nodes.emitted_from(law, batch, greedy=greedily)
        if greedily:
            check_layers_have_scores(graph)
            logs = self.reward_cost.record_sampled(graph, None, plan, sources)
        elif self.settings.estimator == "candidate_set":
            check_candidates(graph)
            logs = self.reward_cost.record_candidates(graph, law, plan, sources)
        else:
            logs = self.reward_cost.record_sampled(graph, law, plan, sources)
        if greedy is not None:
            logs["reward_greedy"] = greedy.sum()
            set_greedy_baselines(graph, self.reward_cost.baseline(greedy))
        return per_sentence(logs)
