"""``--cost``: what is minimised, in training of a pass with gradient, in validation of the model.

A cost of your own is a class of :class:`Cost`, registered under its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from criterions import bleu_from_statistics, token_log_probabilities
from criterions.candidate_losses import (
    CANDIDATE_LOSSES,
    effective_sample_size,
    first_occurrences,
    unique_samples,
)
from criterions.registry import Registry
from criterions.reward_shaping import clip_rewards, normalize_rewards
from criterions.stochastic_graph import Estimator, GreedyDecode
from criterions.token_categorical import TokenCategorical
from fairseq_plugins.decoding import policy_logits
from fairseq_plugins.expected_bleu.autoregressive import autoregressive_statistics
from fairseq_plugins.rewards import Outputs, build_reward
from fairseq_plugins.rows import FedRows, rows_of, smoothed
from fairseq_plugins.stochastic_graph.batch import Batch, columns_of
from fairseq_plugins.stochastic_graph.config import Settings
from fairseq_plugins.stochastic_graph.estimators import EMITTED, FED
from fairseq_plugins.stochastic_graph.rollout import Rollout
from fairseq_plugins.stochastic_graph.scored_pass import ScoredPass
from fairseq_plugins.workers import TrainStepWatch

Logs = dict[str, Tensor]


@dataclass(frozen=True)
class CostOptions:
    """What a cost is built from.

    ``settings``: all flags.
    ``task``: fairseq's.
    ``token_estimator``: of the nodes of tokens.
    ``train_step``: whose sums over workers normalise over the whole batch.
    """

    settings: Settings
    task: Any
    token_estimator: Estimator
    train_step: TrainStepWatch


class Cost(ABC):
    """The expected cost that an objective minimises, a mean over sentences."""

    per_token = False
    """Whether it is a sum over tokens, as fairseq's own criterions have it, instead."""

    def __init__(self, options: CostOptions) -> None:
        self.options, self.settings = options, options.settings
        self.dictionary = options.task.target_dictionary

    @abstractmethod
    def record(self, done: ScoredPass, rollout: Rollout, greedy: Rollout | None) -> Logs:
        """Add the cost, and the tokens it depends on, to the graph of a pass.

        Args:
            done: the pass with gradient.
            rollout: what it was fed.
            greedy: the greedy output, one for each source, where it is a baseline.

        Returns:
            what to log: means over a source's samples, summed over the sources.
        """

    @abstractmethod
    def validate(
        self, sources: Batch, logits: Tensor, greedy: Callable[[], Rollout]
    ) -> tuple[Tensor, Logs]:
        """The cost of each sentence of what the model does deterministically, ``[batch]``.

        Args:
            sources: the batch, with one row for each source.
            logits: ``[batch, tgt_len, vocab]`` of the teacher-forced pass.
            greedy: decodes the greedy output.
        """

    def token_distribution(self, logits: Tensor) -> TokenCategorical:
        """What decoding draws from, for all positions ``[rows, length, vocab]`` of a pass."""
        return TokenCategorical(
            policy_logits(
                logits,
                eos=self.dictionary.eos(),
                pad=self.dictionary.pad(),
                temperature=self.settings.sample_temperature,
            )
        )

    def record_tokens(
        self,
        done: ScoredPass,
        name: str,
        distribution: TokenCategorical,
        tokens: Tensor,
        mask: Tensor,
    ) -> None:
        """Add tokens that were drawn, ``[rows, length]``, where ``mask`` is True."""
        done.graph.sample(
            name,
            distribution,
            estimator=self.options.token_estimator,
            mask=mask,
            value=tokens,
            baseline_input=done.states,
        )

    def check_not_enumerated(self, logits: Tensor) -> None:
        """Raise ``ValueError`` for ``[values, rows, length, vocab]``."""
        if logits.dim() != 3:
            raise ValueError(
                f"--cost {self.settings.cost} does not go with --layer-estimator enumeration (the "
                f"decoder's logits have shape {list(logits.shape)}): use --cost cross_entropy, or "
                "another estimator"
            )


COSTS: Registry[Cost] = Registry("--cost", Cost)  # type: ignore[type-abstract]


@dataclass(frozen=True)
class TokenLosses:
    """Cross-entropy of every token of the reference, in nats.

    ``smoothed``, ``plain``: ``[rows, tgt_len]``, after axes of the values of enumerated layers if
    any; with label smoothing and without.
    ``counts``: ``[rows, tgt_len]`` bool, which tokens exist and are not part of the prefix.
    """

    smoothed: Tensor
    plain: Tensor
    counts: Tensor

    @classmethod
    def of(cls, logits: Tensor, batch: Batch, label_smoothing: float) -> TokenLosses:
        """Of logits ``[rows, tgt_len, vocab]``, after axes of enumerated layers if any."""
        vocab = logits.size(-1)
        # Padding, too, is an id of the vocabulary.
        target = batch.reference.tokens.expand(logits.shape[:-1])
        picked = token_log_probabilities(logits.reshape(-1, 1, vocab), target.reshape(-1, 1))
        plain = -picked.selected.reshape(target.shape)
        uniform = -picked.mean.reshape(target.shape)
        return cls(smoothed(plain, uniform, vocab, label_smoothing), plain, batch.counts)

    def total(self, losses: Tensor) -> Tensor:
        """Sum of ``[rows, tgt_len]`` over the tokens that count."""
        return losses.masked_fill(~self.counts, 0).sum()

    @property
    def logs(self) -> Logs:
        """The negative log-likelihood, summed; none where it has one for each enumerated value."""
        return {} if self.plain.dim() > 2 else {"nll_loss": self.total(self.plain.detach())}


@COSTS.register("cross_entropy")
class CrossEntropy(Cost):
    """Label-smoothed cross-entropy of the reference's tokens."""

    per_token = True

    def record(self, done: ScoredPass, rollout: Rollout, greedy: Rollout | None) -> Logs:
        settings, batch = self.settings, rollout.batch
        scored = settings.estimator == "score_function"
        if scored:
            # The last token is fed to no one.
            is_fed = columns_of(rollout.tokens) < batch.reference.rows.unsqueeze(1) - 1
            distribution = self.token_distribution(done.logits)
            mask = rollout.action_mask & is_fed
            self.record_tokens(done, FED, distribution, rollout.tokens, mask)
        losses = TokenLosses.of(done.logits, batch, settings.label_smoothing)
        before = [FED] if scored else []
        done.graph.cost("cross_entropy", losses.smoothed, mask=losses.counts, before=before)
        if settings.feed != "teacher" or settings.target != "reference":
            return {}
        return {name: total / batch.samples for name, total in losses.logs.items()}

    def validate(
        self, sources: Batch, logits: Tensor, greedy: Callable[[], Rollout]
    ) -> tuple[Tensor, Logs]:
        losses = TokenLosses.of(logits, sources, self.settings.label_smoothing)
        return losses.smoothed.masked_fill(~losses.counts, 0).sum(-1), {}


@COSTS.register("expected_bleu")
class ExpectedBleu(Cost):
    """``1 - BLEU`` of the decoder's distributions; see :func:`criterions.expected_bleu`.

    Exact expected counts, expected length, positions taken as independent.
    """

    def record(self, done: ScoredPass, rollout: Rollout, greedy: Rollout | None) -> Logs:
        self.check_not_enumerated(done.logits)
        if self.settings.estimator == "score_function":
            # The last token, too: whether it is </s> decides on how many positions there are.
            distribution = self.token_distribution(done.logits)
            self.record_tokens(done, FED, distribution, rollout.tokens, rollout.action_mask)
        bleu = self.sentence_bleu(done.logits, rollout.batch, rollout.number)
        done.graph.cost("expected_bleu", 1 - bleu)
        return {}

    def validate(
        self, sources: Batch, logits: Tensor, greedy: Callable[[], Rollout]
    ) -> tuple[Tensor, Logs]:
        bleu = self.sentence_bleu(logits, sources, sources.reference.rows)
        return 1 - bleu, {"expected_bleu": bleu.sum()}

    def sentence_bleu(self, logits: Tensor, batch: Batch, number: Tensor) -> Tensor:
        """``[rows]``, 0 to 1.

        Args:
            logits: ``[rows, length, vocab]``.
            batch: with a reference for each row.
            number: ``[rows]``, positions that exist in ``logits``.
        """
        reference = batch.scored
        rows = rows_of(batch.after_prefix(logits), reference, self.dictionary.eos())
        number = batch.size_after_prefix(number)
        statistics = autoregressive_statistics(
            FedRows(rows, number, number),
            reference,
            self.dictionary,
            max_order=self.settings.max_order,
            count_eos=self.settings.sentence_end == "ngram",
        )
        return bleu_from_statistics(*statistics, smoothing=self.settings.smoothing)


@COSTS.register("reward")
class NegativeReward(Cost):
    """``1 - reward`` of whole outputs, or the negative of the normalised reward."""

    def __init__(self, options: CostOptions) -> None:
        super().__init__(options)
        settings = options.settings
        self.bounds = _bounds_of("--reward-clip", settings.reward_clip)
        self.reward = build_reward(
            settings.reward,
            level=settings.reward_level,
            task=options.task,
            workers=settings.reward_workers,
            bpe=settings.reward_remove_bpe,
            detokenizer=settings.reward_detok,
            detokenizer_args=settings.reward_detok_args,
            sacrebleu_tokenizer=settings.reward_sacrebleu_tokenizer,
            max_order=settings.max_order,
            smoothing=settings.smoothing,
            sentence_end=settings.sentence_end,
        )
        if settings.credit == "reward_to_go" and not self.reward.per_token:
            raise ValueError(
                f"--credit reward_to_go does not go with --reward {settings.reward}: it does "
                "not tell what each token adds; use sentence_bleu or gleu"
            )

    def record(self, done: ScoredPass, rollout: Rollout, greedy: Rollout | None) -> Logs:
        self.check_not_enumerated(done.logits)
        settings = self.settings
        distribution = None
        if not settings.emits_greedily or settings.feed == "teacher":
            distribution = self.token_distribution(done.logits)
        if settings.feed == "teacher" or settings.relaxed:
            assert distribution is not None
            eos, pad = self.dictionary.eos(), self.dictionary.pad()
            rollout = rollout.emitting(distribution, eos, pad, greedy=settings.emits_greedily)
        if settings.estimator == "candidate_set":
            assert distribution is not None
            logs = self._record_candidates(done, distribution, rollout)
        else:
            if settings.emits_greedily:
                _check_layers_have_scores(done)
            else:
                assert distribution is not None
                mask = rollout.action_mask
                self.record_tokens(done, EMITTED, distribution, rollout.tokens, mask)
            logs = self._record_outputs(done, rollout)
        if greedy is not None:
            rewards = self.reward(_outputs(greedy))
            logs["reward_greedy"] = rewards.sum()
            baseline = -rewards if settings.credit == "reward_to_go" else self._cost(rewards, 1)
            for node in done.graph.nodes.values():
                if isinstance(getattr(node.estimator, "baseline", None), GreedyDecode):
                    done.graph.set_baseline_input(node.name, baseline, node.step)
        return logs

    def validate(
        self, sources: Batch, logits: Tensor, greedy: Callable[[], Rollout]
    ) -> tuple[Tensor, Logs]:
        outputs = _outputs(greedy())
        rewards = self.reward(outputs)
        logs = {"reward_greedy": rewards.sum(), "sample_length": outputs.lengths.sum()}
        return 1 - rewards, logs

    def _record_outputs(self, done: ScoredPass, rollout: Rollout) -> Logs:
        """The reward of each output as the cost of what was drawn for it."""
        outputs = _outputs(rollout)
        if self.settings.credit == "reward_to_go":
            increments = self.reward.increments(outputs)
            rewards = increments.sum(1)
            prefix = rollout.tokens.size(1) - increments.size(1)
            done.graph.cost("reward", -torch.nn.functional.pad(increments, (prefix, 0)))
            # 1 - reward in all; no token answers for the 1.
            done.graph.cost("perfect_reward", torch.ones_like(rewards), parents=[])
        else:
            rewards = self.reward(outputs)
            done.graph.cost("reward", self._cost(rewards, outputs.samples))
        return self._logged(rewards, rollout, outputs)

    def _record_candidates(
        self, done: ScoredPass, distribution: TokenCategorical, rollout: Rollout
    ) -> Logs:
        """A loss over the set of a source's outputs."""
        _check_layers_have_no_scores(done)
        outputs = _outputs(rollout)
        samples = outputs.samples

        def grouped(rows: Tensor) -> Tensor:
            return rows.reshape(-1, samples, *rows.shape[1:])

        mask = rollout.action_mask
        log_probs = grouped(distribution.log_prob(rollout.tokens).masked_fill(~mask, 0).sum(1))
        # Of the same candidates the first counts; </s> distinguishes an output from a cut one.
        different = first_occurrences(grouped(rollout.tokens), grouped(rollout.number))
        # An empty reference has no probability: decoding never ends before the first token.
        different = different & log_probs.detach().isfinite()
        rewards = self.reward(outputs)
        costs = grouped(self._cost(rewards, samples))
        name = self.settings.candidate_loss
        if name == "risk":
            alpha = self.settings.candidate_sharpness
            loss = CANDIDATE_LOSSES[name](log_probs, costs, alpha=alpha, mask=different)
        else:
            # The other losses compare scores of outputs of different lengths.
            alpha, lengths = 1.0, grouped(mask.sum(1)).clamp(min=1)
            loss = CANDIDATE_LOSSES[name](log_probs, costs, mask=different, lengths=lengths)
            log_probs = log_probs / lengths
        done.graph.cost(f"candidate_{name}", loss.repeat_interleave(samples))
        sizes = effective_sample_size(alpha * log_probs.detach(), different)
        return {
            **self._logged(rewards, rollout, outputs),
            "effective_sample_size": sizes.sum(),
        }

    def _cost(self, rewards: Tensor, samples: int) -> Tensor:
        """``[rows]``: the cost of outputs with these rewards, ``samples`` for each source."""
        mode = self.settings.reward_normalization
        shaped = normalize_rewards(
            rewards.reshape(-1, samples),
            mode,
            sum_over_workers=self.options.train_step.sum_over_workers,
        ).flatten()
        if self.bounds != (None, None):
            shaped = clip_rewards(shaped, *self.bounds)
        return 1 - shaped if mode == "none" else -shaped

    def _logged(self, rewards: Tensor, rollout: Rollout, outputs: Outputs) -> Logs:
        """Of the samples; a reference among the candidates is not one of them."""
        own = self.settings.samples

        def of_samples(rows: Tensor) -> Tensor:
            return rows.reshape(-1, outputs.samples, *rows.shape[1:])[:, :own]

        logged = {
            "reward": of_samples(rewards).sum() / own,
            "sample_length": of_samples(outputs.lengths).sum() / own,
        }
        if own > 1:
            unique = unique_samples(of_samples(rollout.tokens), of_samples(rollout.number))
            logged["unique_samples"] = unique.sum()
        return logged


def _outputs(rollout: Rollout) -> Outputs:
    """What a reward judges: the rollout without the ignored prefix."""
    batch = rollout.batch
    tokens, lengths = rollout.output
    return Outputs(
        tokens=tokens,
        lengths=lengths,
        references=batch.scored.tokens[:: batch.samples],
        reference_lengths=batch.scored.lengths[:: batch.samples],
        sources=batch.net_input["src_tokens"],
        samples=batch.samples,
    )


def _check_layers_have_no_scores(done: ScoredPass) -> None:
    """Raise ``ValueError`` for layers with a score term under a loss over a set of candidates.

    A layer's outcome for one candidate has part in the loss of the whole set, which is the cost of
    each of its rows: every score term would be too small by the size of the set.
    """
    for node in done.layers:
        if node.log_prob is not None:
            raise ValueError(
                f"--estimator candidate_set does not go with the score function of {node}: use "
                "--layer-estimator straight_through, none, expectation or mode, or --estimator "
                "score_function"
            )


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
    if low is not None and high is not None and not low < high:
        raise ValueError(f"{flag}: the lower bound must be below the upper one; got {text!r}")
    return low, high
