"""A model with random weights whose outputs end where translations would.

Left alone it would hardly ever emit ``</s>``: every output would be as long as the limit allows,
and an objective that decodes would look dearer than it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.loss_functions import END

SPREAD = 0.2
"""Standard deviation of an output's length, in multiples of the reference's."""

_USUAL_WORD = 4
_ITS_ODDS = 0.25
"""Odds of one word against all others: were all equally rare, greedy outputs would end where
``</s>`` has the probability of a rare word, far too early."""


def log_odds_of_ending(longest: int) -> Tensor:
    """That an output ends after so many tokens, if it has not yet: ``[tokens, mean length]``.

    The lengths of outputs are normal around ``mean length``, rounded.

    Args:
        longest: the largest mean length.
    """
    tokens = torch.arange(4 * longest + 20, dtype=torch.float64).unsqueeze(1)
    means = torch.arange(longest + 1, dtype=torch.float64)
    law = torch.distributions.Normal(means, SPREAD * means + 0.5)
    alive = (1 - law.cdf(tokens - 0.5)).clamp(min=1e-12)
    ends = 1 - (1 - law.cdf(tokens + 0.5)) / alive
    return torch.logit(ends.clamp(1e-9, 1 - 1e-9)).float()


def impose_lengths(model: Any, longest_source: int) -> None:
    """Let outputs be about as long as their sources, whoever decodes.

    Only decoding, which is without gradient, is changed.  A pass with gradient stays what it is:
    what it costs does not depend on the values.

    Args:
        model: fairseq transformer with random weights, whose logits have a variance of about 1.
        longest_source: tokens, ``</s>`` included.
    """
    decoder = model.decoder
    forward = decoder.forward
    table = log_odds_of_ending(longest_source)

    def ending(prev_output_tokens: Tensor, *arguments: Any, **keywords: Any) -> tuple[Tensor, Any]:
        logits, extra = forward(prev_output_tokens, *arguments, **keywords)
        if torch.is_grad_enabled():
            return logits, extra
        mask = keywords["encoder_out"]["encoder_padding_mask"][0]
        source = (~mask).sum(1) - 1
        emitted = min(prev_output_tokens.size(1) - 1, table.size(0) - 1)
        others = math.log(logits.size(2)) + 0.5
        logits[:, -1, _USUAL_WORD] = others + math.log(_ITS_ODDS)
        logits[:, -1, END] = table[emitted, source] + others + math.log1p(_ITS_ODDS)
        return logits, extra

    decoder.forward = ending
