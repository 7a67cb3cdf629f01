"""Flags of stochastic attention, and how scores of source positions become weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from torch import Tensor, nn

from criterions.stochastic_graph import (
    Enumeration,
    Estimator,
    GumbelSoftmax,
    Schedule,
    StraightThroughGumbel,
    UncheckedOneHotCategorical,
    estimator_of,
    one_hot_argmax,
    sample,
)
from fairseq_plugins.flags import SCHEDULE, above, schedule_of
from fairseq_plugins.models.extending import Flags, ModelFlags, at_least_float32, flag

_DEFAULT_EVALUATIONS = {
    "soft": "soft",
    "hard": "mode",
    "gumbel": "soft",
    "gumbel_st": "mode",
    "greedy": "mode",
    "exact": "exact",
}
KINDS = tuple(_DEFAULT_EVALUATIONS)
"""How a model attends while it is trained."""
EVALUATIONS = ("mode", "soft", "sample", "exact")
"""How it attends in validation and generation."""
_RELAXED: dict[str, Callable[[Schedule], Estimator]] = {
    "gumbel": GumbelSoftmax,
    "gumbel_st": StraightThroughGumbel,
}


@dataclass
class AttentionFlags(ModelFlags):
    """Flags of all models with stochastic attention."""

    attention: ChoiceEnum(list(KINDS)) = flag(
        "soft",
        "how the decoder attends to the source in training: soft (the expectation; fairseq's own "
        "attention), hard (one sampled position; --layer-estimator of --criterion "
        "stochastic_graph estimates the gradient), gumbel (a Gumbel-softmax sample), gumbel_st "
        "(one position, with the gradient of gumbel), greedy (the most probable position), exact "
        "(each token's distribution is the mixture over all positions)",
    )
    attention_temperature: str = flag("1", f"temperature of gumbel and gumbel_st: {SCHEDULE}")
    attention_in_evaluation: Optional[ChoiceEnum(list(EVALUATIONS))] = flag(
        None,
        "how it attends in validation and generation: mode (the most probable position), soft (the "
        "expectation), sample (a sampled position), exact (the mixture) [default: mode for hard, "
        "gumbel_st and greedy, soft for soft and gumbel, exact for exact]",
    )

    @classmethod
    def of(cls: type[Flags], args: Any) -> Flags:
        """The flags' values, checked.

        Raises:
            ValueError: a value is none of the choices, or out of its range.
        """
        flags = super().of(args)
        if flags.attention_in_evaluation is None:
            flags.attention_in_evaluation = _DEFAULT_EVALUATIONS[flags.attention]
        flags.temperature()
        return flags

    def temperature(self) -> Schedule:
        """Of ``gumbel`` and ``gumbel_st``, by update."""
        return schedule_of("--attention-temperature", self.attention_temperature, above, 0)

    @property
    def is_soft(self) -> bool:
        """Whether the model is fairseq's own, in training and in evaluation."""
        return self.attention == self.attention_in_evaluation == "soft"

    @property
    def marginalises(self) -> bool:
        """Whether the mixture over positions is asked for, in training or in evaluation."""
        return "exact" in (self.attention, self.attention_in_evaluation)

    def check_decoder(self, decoder: Any) -> None:
        """Raise ``ValueError`` where the mixture is asked of an adaptive softmax."""
        if self.marginalises and decoder.adaptive_softmax is not None:
            raise ValueError(
                "--attention exact mixes distributions over the whole vocabulary: train without "
                "--adaptive-softmax-cutoff and --criterion adaptive_loss"
            )

    @property
    def without_state(self) -> str | None:
        """Why, in training, a step's output is not computed from one state; None where it is."""
        exact = self.attention == "exact"
        return "--attention exact mixes those of all positions" if exact else None


class PositionChoice(nn.Module):
    """Turns attention scores into weights: probabilities, a sample, or the most probable position.

    ``name`` is that of the node in the stochastic graph, different for each attention of a model.
    """

    def __init__(self, name: str, flags: AttentionFlags) -> None:
        super().__init__()
        self.name = name
        self.kind, self.evaluation = flags.attention, flags.attention_in_evaluation
        self.estimator: Estimator | None = None
        if self.kind in _RELAXED:
            self.estimator = _RELAXED[self.kind](flags.temperature())
        self._update = 0

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq's trainer; the temperature's schedule needs it."""
        self._update = num_updates

    def selection(self) -> str:
        """What the next weights are: ``soft``, ``mode``, ``sample``, ``draw`` or ``exact``.

        While a stochastic graph is recorded, or outputs are decoded for one, that is decided by
        ``--attention`` even if modules are in evaluation mode, as they are for a forward pass
        without dropout.  So it is in training without a graph; otherwise
        ``--attention-in-evaluation`` decides.

        Raises:
            ValueError: ``hard`` in training without a graph, or with ``enumeration``.
        """
        kind = self.kind
        estimator = estimator_of(self.name, self.estimator)
        if estimator is None and not (self.training and torch.is_grad_enabled()):
            return self.evaluation
        if kind in ("hard", *_RELAXED) and isinstance(estimator, Enumeration):
            raise ValueError(
                f"--layer-estimator enumeration does not go with --attention {kind}: use "
                "--attention exact, which sums over the positions in the model itself"
            )
        if kind == "hard" and estimator is None:
            raise ValueError(
                "--attention hard needs the gradient estimator of --criterion stochastic_graph; "
                "with other criterions use --attention gumbel, gumbel_st, exact or soft"
            )
        return {"greedy": "mode", "soft": "soft", "exact": "exact"}.get(kind, "draw")

    def weights(
        self, selection: str, scores: Tensor, *, mask: Tensor | None = None, step: int | None = None
    ) -> Tensor:
        """Weights of the source positions, float32 at least, which sum to 1.

        Args:
            selection: of :meth:`selection`, but not ``exact``.
            scores: ``[batch, ..., src_len]`` before the softmax, ``-inf`` at padding.
            mask: ``[batch, ...]`` bool, False where there is no target token.
            step: decoder step, if the attention is called once for each.
        """
        scores = at_least_float32(scores)
        if selection == "soft":
            return scores.softmax(-1)
        if selection == "mode":
            return one_hot_argmax(scores)
        distribution = UncheckedOneHotCategorical(logits=scores)
        if selection == "sample":
            return distribution.sample()
        if estimator_of(self.name) is None:
            # A criterion without a graph: a relaxed sample has its gradient by itself.
            assert self.estimator is not None
            return self.estimator.draw(distribution, update=self._update).value
        return sample(self.name, distribution, estimator=self.estimator, mask=mask, step=step)
