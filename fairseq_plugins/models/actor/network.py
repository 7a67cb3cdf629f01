"""The actor itself."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from criterions.stochastic_graph import estimator_of, sample
from fairseq_plugins.models.actor.options import ActorOptions

logger = logging.getLogger(__name__)

NODE = "actor"
"""Name of the actor's node in the stochastic computation graph."""


class Actor(nn.Module):
    """``a = V tanh(U s + W m + u) + v``, with V and v zero at first.

    ``s`` is a state of the decoder and ``m`` the mean of the encoder's output.  With a standard
    deviation, a training step takes a sample of the Gaussian around ``a`` in place of ``a``.

    Args:
        state_dim: size of ``s``.
        source_dim: size of ``m``.
        output_dim: size of ``a``.
        options: the flags.
    """

    def __init__(
        self, state_dim: int, source_dim: int, output_dim: int, options: ActorOptions
    ) -> None:
        super().__init__()
        self.read_state = nn.Linear(state_dim, options.hidden_size)
        self.read_source = nn.Linear(source_dim, options.hidden_size, bias=False)
        self.write = nn.Linear(options.hidden_size, output_dim)
        # The model says at first what it said without an actor.
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)
        self.std = options.std
        self.log_std: nn.Parameter | None = None
        if options.std is not None and options.learn_std:
            self.log_std = nn.Parameter(torch.full((output_dim,), math.log(options.std(0))))
        self._updates = 0

    def source(self, encoder_out: Tensor, padding: Tensor | None) -> Tensor:
        """``W m``, ``[rows, hidden]``; once for all steps.

        Args:
            encoder_out: ``[rows, src_len, source_dim]``.
            padding: ``[rows, src_len]`` bool, True where there is no token; None: nowhere.
        """
        if padding is None:
            mean = encoder_out.mean(1)
        else:
            exists = (~padding).unsqueeze(2)
            total = encoder_out.masked_fill(~exists, 0).sum(1)
            mean = total / exists.sum(1).clamp(min=1).type_as(total)
        return self.read_source(mean)

    def forward(
        self, state: Tensor, source: Tensor, exists: Tensor, step: int | None = None
    ) -> Tensor:
        """What is to be added to the decoder's input, ``[rows, (time,) output_dim]``.

        Args:
            state: ``[rows, state_dim]`` of one step, or ``[rows, time, state_dim]``.
            source: ``[rows, hidden]``, of :meth:`source`.
            exists: ``[rows]`` or ``[rows, time]`` bool, where the decoder reads a token.
            step: number of the one step within the call of the decoder.

        Raises:
            ValueError: a Gaussian in training without a graph, where nothing would be drawn.
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
        wide = mean.float() if mean.dtype in (torch.float16, torch.bfloat16) else mean
        if self.log_std is not None:
            std = self.log_std.to(wide.dtype).exp().expand_as(wide)
        else:
            std = torch.full_like(wide, self.std(self._updates))
        law = Independent(Normal(wide, std, validate_args=False), 1, validate_args=False)
        return sample(NODE, law, mask=exists, step=step).type_as(mean)

    def set_num_updates(self, num_updates: int) -> None:
        """fairseq's trainer tells the number of the update, for the schedule."""
        self._updates = num_updates

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Let checkpoints without an actor, or with one of another kind, load.

        Args:
            state_dict: of the whole model; what it lacks is added as it is here.
            name: the actor's, within the model.
        """
        own = self.state_dict()
        if new := [key for key in own if f"{name}.{key}" not in state_dict]:
            logger.info("the checkpoint lacks %s of the actor: starts anew", ", ".join(new))
            state_dict.update({f"{name}.{key}": own[key] for key in new})
        if self.log_std is None and state_dict.pop(f"{name}.log_std", None) is not None:
            logger.info("the checkpoint has a learned standard deviation, which is left out")
