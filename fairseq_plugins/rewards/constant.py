"""The reward that tells nothing: a control."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fairseq_plugins.rewards.base import REWARDS, Reward
from fairseq_plugins.rewards.outputs import Outputs


@REWARDS["tokens"].register("constant")
@REWARDS["text"].register("constant")
class Constant(Reward):
    """1 for every output, so that a model trained on it alone must not learn anything."""

    per_token: ClassVar[bool] = True

    def __call__(self, outputs: Outputs) -> Tensor:
        return torch.ones_like(outputs.lengths, dtype=torch.float32)

    def increments(self, outputs: Outputs) -> Tensor:
        """All of it at the first step, which empty outputs have as well (their ``</s>``)."""
        added = torch.zeros_like(outputs.tokens, dtype=torch.float32)
        added[:, :1] = 1
        return added
