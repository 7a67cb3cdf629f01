"""The actor: a network that perturbs the decoder's input of a trained, frozen model."""

import math
from argparse import ArgumentParser
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.dataclass import ChoiceEnum
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from criterions.stochastic_graph import Schedule, estimator_of, sample
from fairseq_plugins.flags import SCHEDULE, above, at_least, schedule_of
from fairseq_plugins.models.extending import (
    ModelFlags,
    adapt_state_dict,
    at_least_float32,
    flag,
    mean_over_tokens,
)

NODE = "actor"
"""Name of the actor's node in the stochastic computation graph."""


@dataclass
class ActorFlags(ModelFlags):
    """Flags of every architecture with an actor."""

    actor: ChoiceEnum(["deterministic", "gaussian"]) = flag(
        "gaussian",
        "what is added to the decoder's input: the actor's output, or a sample of a Gaussian "
        "around it for --criterion stochastic_graph",
    )
    actor_hidden_size: int = flag(128, "units of the actor's hidden layer")
    actor_std: str = flag(
        "0.1", f"standard deviation of --actor gaussian in every dimension: {SCHEDULE}"
    )
    actor_learn_std: bool = flag(
        False, "learn a standard deviation of each dimension, starting from --actor-std"
    )
    actor_train_all: bool = flag(False, "train the rest of the model as well")
    actor_keep_dropout: bool = flag(
        False, "leave dropout on in the rest of the model while it is frozen"
    )

    def std(self) -> Schedule | None:
        """Standard deviation of the Gaussian, by update; None for a deterministic actor.

        Raises:
            ValueError: it is out of range, or a schedule for a learned one to start from.
        """
        if self.actor == "deterministic":
            return None
        std = schedule_of("--actor-std", self.actor_std, above, 0)
        if self.actor_learn_std and hasattr(std, "updates"):
            raise ValueError(
                f"--actor-learn-std does not go with --actor-std {self.actor_std}: a learned "
                "standard deviation follows no schedule; give the number that it starts from"
            )
        return std


class Actor(nn.Module):
    """``a = V tanh(U s + W m + u) + v``, with V and v zero at first.

    ``s`` ``[..., state_dim]`` is a state of the decoder and ``m`` ``[..., source_dim]`` the mean of
    the encoder's output.  With a standard deviation, training uses a sample of the Gaussian around
    ``a`` in place of ``a``.  Raises ``ValueError`` for a flag out of its range.
    """

    def __init__(self, state_dim: int, source_dim: int, output_dim: int, flags: ActorFlags) -> None:
        super().__init__()
        hidden = at_least("--actor-hidden-size", flags.actor_hidden_size, 1)
        self.read_state = nn.Linear(state_dim, hidden)
        self.read_source = nn.Linear(source_dim, hidden, bias=False)
        self.write = nn.Linear(hidden, output_dim)
        # At first the model's outputs are those without an actor.
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)
        self.std = flags.std()
        self.log_std: nn.Parameter | None = None
        if self.std is not None and flags.actor_learn_std:
            self.log_std = nn.Parameter(torch.full((output_dim,), math.log(self.std(0))))
        self._updates = 0

    def source(self, encoder_out: Tensor, padding: Tensor | None) -> Tensor:
        """``W m``, ``[batch, hidden]``, the same for all steps.

        Of ``encoder_out`` ``[batch, src_len, source_dim]``, where ``padding`` (None: nowhere) is
        not True.
        """
        if padding is None:
            return self.read_source(encoder_out.mean(1))
        return self.read_source(mean_over_tokens(encoder_out, padding))

    def forward(
        self, state: Tensor, source: Tensor, exists: Tensor, step: int | None = None
    ) -> Tensor:
        """What is to be added to the decoder's input, ``[batch, (time,) output_dim]``.

        Args:
            state: ``[batch, state_dim]`` of one step, or ``[batch, time, state_dim]``.
            source: ``[batch, hidden]``, of :meth:`source`.
            exists: ``[batch]`` or ``[batch, time]`` bool, False where the input is padding.
            step: number of the one step within the call of the decoder.

        Raises:
            ValueError: a Gaussian in training without a graph, where nothing would be sampled.
        """
        training = self.training and torch.is_grad_enabled()
        if self.std is not None and training and estimator_of(NODE) is None:
            raise ValueError(
                "--actor gaussian draws for --criterion stochastic_graph; other criterions would "
                "train its mean alone: use --actor deterministic"
            )
        if state.dim() == 3:
            source = source.unsqueeze(1)
        mean = self.write(torch.tanh(self.read_state(state) + source))
        if self.std is None:
            return mean
        # Log-probabilities of many dimensions add up: not in half precision.
        wide = at_least_float32(mean)
        if self.log_std is not None:
            std = self.log_std.to(wide.dtype).exp().expand_as(wide)
        else:
            std = torch.full_like(wide, self.std(self._updates))
        gaussian = Independent(Normal(wide, std, validate_args=False), 1, validate_args=False)
        return sample(NODE, gaussian, mask=exists, step=step).type_as(mean)

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq's trainer; the standard deviation's schedule needs it."""
        self._updates = num_updates

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Let checkpoints without an actor, or with one of another ``--actor``, load."""
        parts = ("read_state.", "read_source.", "write.", "log_std")
        adapt_state_dict(self, state_dict, name, parts)


class ActorModel:
    """Mixin, placed before a fairseq encoder-decoder model among a class's bases.

    All parameters but the actor's are frozen: they have ``requires_grad=False``, so fairseq's
    optimiser does not hold them and weight decay does not move them.  In training, dropout of the
    frozen part is off; otherwise the actor would be trained for networks other than the one that
    translates.
    """

    frozen = False
    keeps_dropout = False
    _loaded = False

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Add the architecture's flags, and the actor's."""
        super().add_args(parser)
        ActorFlags.add_to(parser)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> Any:
        """Build the model as its architecture does, then give its decoder an actor."""
        flags = ActorFlags.of(args)
        model = super().build_model(args, task)
        model.decoder.actor = model.actor_for(flags)
        model.frozen = not flags.actor_train_all
        model.keeps_dropout = flags.actor_keep_dropout
        if model.frozen:
            model.requires_grad_(False)
            model.decoder.actor.requires_grad_(True)
        return model

    def actor_for(self, flags: ActorFlags) -> Actor:
        """An actor of the sizes that the decoder needs."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Any:
        """Set training mode; only for the actor where the rest is frozen."""
        super().train(mode)
        if mode and self.frozen and not self.keeps_dropout:
            self.encoder.eval()
            self.decoder.eval()
            self.decoder.actor.train()
        return self

    def load_state_dict(self, state_dict: Any, *args: Any, **options: Any) -> Any:
        """As fairseq's models; also from a checkpoint of the same model without an actor."""
        # fairseq writes what a checkpoint lacks into the dictionary that it is given.
        loaded = super().load_state_dict(copy(state_dict), *args, **options)
        self._loaded = True
        return loaded

    def forward(self, *args: Any, **options: Any) -> Any:
        """As the architecture's.

        Raises:
            ValueError: in training, if only the actor learns and the rest is random.
        """
        if self.training and self.frozen and not self._loaded:
            raise ValueError(
                "only the actor learns, but no checkpoint was loaded, so that it would learn to "
                "steer random weights: start from a trained model with --finetune-from-model, or "
                "train all of it with --actor-train-all"
            )
        return super().forward(*args, **options)
