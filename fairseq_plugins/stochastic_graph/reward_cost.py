"""The cost of whole outputs: what is missing of their reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from criterions.candidate_losses import (
    CANDIDATE_LOSSES,
    effective_sample_size,
    first_occurrences,
    unique_samples,
)
from criterions.reward_shaping import clip_rewards, normalize_rewards
from criterions.stochastic_graph import StochasticGraph
from criterions.token_law import TokenLaw
from fairseq_plugins.rewards import Outputs, Reward
from fairseq_plugins.rows import prefix_columns
from fairseq_plugins.stochastic_graph.batch import Batch
from fairseq_plugins.stochastic_graph.estimators import EMITTED
from fairseq_plugins.stochastic_graph.plan import Plan
from fairseq_plugins.stochastic_graph.settings import Settings
from fairseq_plugins.stochastic_graph.token_nodes import TokenNodes


@dataclass(frozen=True)
class RewardCost:
    """How outputs are rewarded.

    ``settings``: the objective.
    ``nodes``: records the tokens.
    ``reward``: of whole outputs.
    ``clip``: lowest and highest reward, None where there is no bound.
    ``kept``: tokens at the start of every output that do not count.
    ``sum_over_workers``: for rewards that are normalised over the batch.
    """

    settings: Settings
    nodes: TokenNodes
    reward: Reward
    clip: tuple[float | None, float | None]
    kept: int
    sum_over_workers: Callable[[Tensor], Tensor]

    def outputs(self, tokens: Tensor, lengths: Tensor, sources: Batch) -> Outputs:
        """What a reward is computed from.

        Args:
            tokens: ``[rows, length]``, the outputs of a source side by side.
            lengths: ``[rows]``, tokens before ``</s>``.
            sources: the batch, with one row for each source.
        """
        reference = sources.reference.without_prefix(self.kept)
        cut = prefix_columns(self.kept, tokens.size(1))
        return Outputs(
            tokens=tokens[:, cut:],
            lengths=(lengths - self.kept).clamp(min=0),
            references=reference.tokens,
            reference_lengths=reference.lengths,
            sources=sources.net_input["src_tokens"],
            samples=tokens.size(0) // reference.tokens.size(0),
        )

    def rewards(self, tokens: Tensor, lengths: Tensor, sources: Batch) -> Tensor:
        """Reward of each output, ``[rows]``; arguments as :meth:`outputs`."""
        return self.reward(self.outputs(tokens, lengths, sources))

    def record_sampled(
        self, graph: StochasticGraph, law: TokenLaw | None, plan: Plan, sources: Batch
    ) -> dict[str, Tensor]:
        """Score-function estimator: the emitted tokens as nodes, the reward as their cost.

        Args:
            graph: the active graph, of as many samples as the plan has for each source.
            law: of batch shape ``[rows, length]``; None for tokens that were not drawn, which are
                no nodes.
            plan: what was emitted.
            sources: the batch, with one row for each source.

        Returns:
            what to log: means over a source's samples, summed over the sources.
        """
        if law is not None:
            self.nodes.record(graph, EMITTED, law, plan.emitted, plan.free)
        outputs = self.outputs(plan.emitted, plan.lengths, sources)
        if self.settings.credit == "reward_to_go":
            increments = self.reward.increments(outputs)
            rewards = increments.sum(1)
            missing = plan.emitted.size(1) - increments.size(1)
            before = increments.new_zeros(increments.size(0), missing)
            graph.cost("reward", -torch.cat([before, increments], dim=1))
            # 1 - reward in all; no token answers for the 1.
            graph.cost("perfect_reward", torch.ones_like(rewards), parents=[])
        else:
            rewards = self.reward(outputs)
            graph.cost("reward", self.cost(rewards, outputs.samples))
        return self._logged(rewards, plan, outputs)

    def record_candidates(
        self, graph: StochasticGraph, law: TokenLaw, plan: Plan, sources: Batch
    ) -> dict[str, Tensor]:
        """A loss over the set of a source's outputs; arguments as :meth:`record_sampled`."""
        settings = self.settings
        outputs = self.outputs(plan.emitted, plan.lengths, sources)
        samples = outputs.samples

        def grouped(rows: Tensor) -> Tensor:
            return rows.reshape(-1, samples, *rows.shape[1:])

        log_probs = grouped(law.log_prob(plan.emitted).masked_fill(~plan.free, 0).sum(1))
        # Of the same candidates the first counts; </s> distinguishes an output from a cut one.
        different = first_occurrences(grouped(plan.emitted), grouped(plan.number))
        # An empty reference has no probability: decoding never ends before the first token.
        different = different & log_probs.detach().isfinite()
        rewards = self.reward(outputs)
        costs = grouped(self.cost(rewards, samples))
        name = settings.candidate_loss
        if name == "risk":
            alpha = settings.candidate_sharpness
            loss = CANDIDATE_LOSSES[name](log_probs, costs, alpha=alpha, mask=different)
        else:
            # The other losses compare scores of outputs of different lengths.
            alpha, lengths = 1.0, grouped(plan.free.sum(1)).clamp(min=1)
            loss = CANDIDATE_LOSSES[name](log_probs, costs, mask=different, lengths=lengths)
            log_probs = log_probs / lengths
        graph.cost(f"candidate_{name}", loss.repeat_interleave(samples))
        worth = effective_sample_size(alpha * log_probs.detach(), different)
        return {
            **self._logged(rewards, plan, outputs),
            "effective_sample_size": worth.sum(),
        }

    def cost(self, rewards: Tensor, samples: int) -> Tensor:
        """``1 - reward``, or the negative of the normalised reward; ``[rows]``."""
        mode = self.settings.reward_normalization
        shaped = normalize_rewards(
            rewards.reshape(-1, samples), mode, sum_over_workers=self.sum_over_workers
        ).flatten()
        if self.clip != (None, None):
            shaped = clip_rewards(shaped, *self.clip)
        return 1 - shaped if mode == "none" else -shaped

    def baseline(self, rewards: Tensor) -> Tensor:
        """The cost of other outputs, such as the greedy ones, to compare with; ``[batch]``."""
        return -rewards if self.settings.credit == "reward_to_go" else self.cost(rewards, 1)

    def _logged(self, rewards: Tensor, plan: Plan, outputs: Outputs) -> dict[str, Tensor]:
        """Of the samples; a reference among the candidates is not one of them."""
        own = self.settings.samples

        def of_samples(rows: Tensor) -> Tensor:
            return rows.reshape(-1, outputs.samples, *rows.shape[1:])[:, :own]

        logged = {
            "reward": of_samples(rewards).sum() / own,
            "sample_length": of_samples(outputs.lengths).sum() / own,
        }
        if own > 1:
            unique = unique_samples(of_samples(plan.emitted), of_samples(plan.number))
            logged["unique_samples"] = unique.sum()
        return logged
