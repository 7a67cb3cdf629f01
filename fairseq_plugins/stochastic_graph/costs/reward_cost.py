"""``--cost reward``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from criterions.candidate_losses import (
    CANDIDATE_LOSSES,
    effective_sample_size,
    first_occurrences,
    unique_samples,
)
from criterions.reward_shaping import clip_rewards, normalize_rewards
from criterions.stochastic_graph import GreedyDecode
from fairseq_plugins.batch import Batch
from fairseq_plugins.rewards import RewardOptions, TokenValues, build_reward
from fairseq_plugins.stochastic_graph.config import Settings
from fairseq_plugins.stochastic_graph.costs.cost import COSTS, Cost, Logs
from fairseq_plugins.stochastic_graph.node_estimators import EMITTED
from fairseq_plugins.stochastic_graph.rollout import Rollout
from fairseq_plugins.stochastic_graph.scored_pass import ScoredPass


@COSTS.register("reward")
class NegativeReward(Cost):
    """``1 - reward`` of whole outputs, or the negative of the normalised reward."""

    reads_logits: ClassVar[bool] = False

    def __init__(
        self, settings: Settings, task: Any, sum_over_workers: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(settings, task, sum_over_workers)
        self.bounds = _bounds_of("--reward-clip", settings.reward_clip)
        self.reward = build_reward(RewardOptions.of(settings, task))
        for name, value in (("credit", "reward_to_go"), ("baseline", "expected")):
            if getattr(settings, name) == value and not self.reward.per_token:
                raise ValueError(
                    f"--{name} {value} does not go with --reward {settings.reward}: it does not "
                    "tell what each token adds; use sentence_bleu or gleu"
                )

    def record(self, done: ScoredPass, rollout: Rollout, greedy: Rollout | None) -> Logs:
        settings, graph = self.settings, done.graph
        if settings.feed == "teacher" or settings.relaxed:
            eos, pad = self.dictionary.eos(), self.dictionary.pad()
            tokens, greedily = done.token_distribution, settings.emits_greedily
            rollout = rollout.emitting(tokens, eos, pad, greedy=greedily)
        outputs, samples = rollout.outputs, rollout.batch.samples
        if settings.emits_greedily:
            _check_layers_have_scores(done)
        elif settings.records_tokens:
            done.record_tokens(EMITTED, rollout.tokens, rollout.action_mask)

        logs: Logs = {}
        if settings.credit == "reward_to_go":
            increments = self.reward.increments(outputs)
            rewards = increments.sum(1)
            prefix = rollout.tokens.size(1) - increments.size(1)
            graph.cost("reward", -torch.nn.functional.pad(increments, (prefix, 0)))
            # 1 - reward in all; no token answers for the 1.
            graph.cost("perfect_reward", torch.ones_like(rewards), parents=[])
        else:
            rewards = self.reward(outputs)
            costs = self._cost(rewards, samples)
            if settings.estimator == "candidate_set":
                size = self._record_candidates(done, rollout, costs)
                logs["effective_sample_size"] = size
            else:
                graph.cost("reward", costs)
        if rollout.right is not None:
            right = rollout.batch.after_prefix(rollout.right)
            self._expect(self.reward.token_values(outputs, right), done, rollout)
        if greedy is not None:
            self._compare_with(greedy, done, logs)

        lengths, own = outputs.lengths, settings.samples
        if own > 1:
            # A reference among the candidates is none of the samples.
            rewards, lengths = (rows.view(-1, samples)[:, :own] for rows in (rewards, lengths))
            tokens = rollout.tokens.unflatten(0, (-1, samples))[:, :own]
            num_tokens = rollout.num_tokens.view(-1, samples)[:, :own]
            logs["unique_samples"] = unique_samples(tokens, num_tokens).sum()
        return {"reward": rewards.sum() / own, "sample_length": lengths.sum() / own, **logs}

    def validate(
        self, sources: Batch, logits: Tensor, greedy: Callable[[], Rollout]
    ) -> tuple[Tensor, Logs]:
        outputs = greedy().outputs
        rewards = self.reward(outputs)
        logs = {"reward_greedy": rewards.sum(), "sample_length": outputs.lengths.sum()}
        return 1 - rewards, logs

    def _cost(self, rewards: Tensor, samples: int) -> Tensor:
        """``[rows]``: the cost of outputs with these rewards, ``samples`` for each source."""
        normalization = self.settings.reward_normalization
        if normalization != "none":
            rewards = normalize_rewards(
                rewards.view(-1, samples), normalization, self.sum_over_workers
            ).flatten()
        if self.bounds != (None, None):
            rewards = clip_rewards(rewards, *self.bounds)
        return 1 - rewards if normalization == "none" else -rewards

    def _record_candidates(self, done: ScoredPass, rollout: Rollout, costs: Tensor) -> Tensor:
        """Add the loss of each source's candidates; the sum of their effective sample sizes.

        A layer's outcome for one candidate has part in the loss of the whole set, which is the cost
        of each of its rows: with a score function, every score term would be too small by the size
        of the set.

        Args:
            done: the pass with gradient.
            rollout: the candidates, those of a source side by side.
            costs: ``[rows]``.

        Raises:
            ValueError: a layer of the model has a score term.
        """
        for node in done.layers:
            if node.log_prob is not None:
                raise ValueError(
                    f"--estimator candidate_set does not go with the score function of {node}: use "
                    "--layer-estimator straight_through, none, expectation or mode, or --estimator "
                    "score_function"
                )
        settings, samples, mask = self.settings, rollout.batch.samples, rollout.action_mask

        def grouped(rows: Tensor) -> Tensor:
            return rows.unflatten(0, (-1, samples))

        log_probs = done.token_distribution.log_prob(rollout.tokens).masked_fill(~mask, 0)
        log_probs = grouped(log_probs.sum(1))
        # Of the same candidates the first counts; </s> distinguishes an output from a cut one.
        different = first_occurrences(grouped(rollout.tokens), grouped(rollout.num_tokens))
        # An empty reference has no probability: decoding never ends before the first token.
        different = different & log_probs.detach().isfinite()
        loss_of, costs = CANDIDATE_LOSSES[settings.candidate_loss], grouped(costs)
        if settings.candidate_loss == "risk":
            alpha = settings.candidate_sharpness
            loss = loss_of(log_probs, costs, alpha=alpha, mask=different)
        else:
            # The other losses compare scores of outputs of different lengths.
            alpha, lengths = 1.0, grouped(mask.sum(1)).clamp(min=1)
            loss = loss_of(log_probs, costs, mask=different, lengths=lengths)
            log_probs = log_probs / lengths
        done.graph.cost(f"candidate_{settings.candidate_loss}", loss.repeat_interleave(samples))
        return effective_sample_size(alpha * log_probs.detach(), different).sum()

    def _expect(self, expected: TokenValues, done: ScoredPass, rollout: Rollout) -> None:
        """Let what is expected of the cost after each token be the baseline of the tokens.

        As it depends on the token, the gradient of its mean over all tokens is added.
        """
        prefix = rollout.tokens.size(1) - expected.other.size(1)
        pad = torch.nn.functional.pad
        done.graph.set_baseline_input(EMITTED, 1 - pad(expected.emitted, (prefix, 0)))
        # The probabilities sum to 1: only tokens that differ from the others are looked up.
        tokens = expected.tokens.t().unsqueeze(2).expand(-1, -1, rollout.tokens.size(1))
        probabilities = done.token_distribution.log_prob(tokens).exp().permute(1, 2, 0)
        gains = expected.values - expected.other.unsqueeze(2)
        gains = pad(gains.masked_fill(~expected.known.unsqueeze(1), 0), (0, 0, prefix, 0))
        mean = -(probabilities * gains).sum(2)
        # Its gradient alone counts.
        mean = mean - mean.detach()
        done.graph.cost("expected_reward", mean, mask=rollout.action_mask, parents=[])

    def _compare_with(self, greedy: Rollout, done: ScoredPass, logs: Logs) -> None:
        """Let the cost of the greedy outputs be the baseline of the nodes that ask for it."""
        rewards = self.reward(greedy.outputs)
        logs["reward_greedy"] = rewards.sum()
        per_token = self.settings.credit == "reward_to_go"
        baseline = -rewards if per_token else self._cost(rewards, 1)
        for node in done.graph.nodes.values():
            if isinstance(node.estimator.baseline, GreedyDecode):
                done.graph.set_baseline_input(node.name, baseline, node.step)


def _check_layers_have_scores(done: ScoredPass) -> None:
    """Raise ``ValueError`` where greedy outputs are rewarded and no layer would learn from it."""
    if any(node.log_prob is not None for node in done.layers):
        return
    found = ", ".join(sorted({node.name for node in done.layers}))
    raise ValueError(
        "--emit greedy trains the stochastic layers of the model, by the score function: the most "
        "probable tokens themselves are no random choice and have no gradient.  "
        + (
            f"Of its layers ({found}) none has that estimator: use --layer-estimator score_function"
            if found
            else "This model has no layer that draws: use one that has (--arch actor_transformer "
            "or actor_lstm with --actor gaussian, or one of your own), or --emit sample --feed "
            "sample"
        )
    )


def _bounds_of(flag: str, text: str | None) -> tuple[float | None, float | None]:
    """``LOW:HIGH``, either of which may be left out; None for no bound.

    Raises:
        ValueError: the text is another, or the bounds are in the wrong order.
    """
    if text is None:
        return None, None
    try:
        low, high = (float(part) if part else None for part in text.split(":"))
    except ValueError:
        raise ValueError(f"{flag} must be LOW:HIGH, such as 0:1 or -2:; got {text!r}") from None
    if any(bound is not None and not math.isfinite(bound) for bound in (low, high)):
        raise ValueError(f"{flag} must have finite bounds; got {text!r}")
    if low is not None and high is not None and not low < high:
        raise ValueError(f"{flag}: the lower bound must be below the upper one; got {text!r}")
    return low, high
