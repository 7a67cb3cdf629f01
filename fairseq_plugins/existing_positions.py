"""Passes over the positions of decoded outputs that exist, in place of all that the longest has.

Rows of similar length go through the decoder together, and equal outputs of a source once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.models.lstm import LSTMModel
from fairseq.models.transformer import TransformerModelBase
from torch import Tensor, nn
from torch.distributions import Distribution

from criterions.token_categorical import TokenCategorical
from fairseq_plugins.model_pass import replaced_method

# Modules whose forward every worker has to call as often as the others, or that mix rows.
_WAITING_LAYERS = {"FullyShardedDataParallel", "BaseLayer", "MOELayer", "_BatchNorm"}
# So many positions keep matrix products of one thread fast; an accelerator needs more of them.
_POSITIONS_PER_PIECE = {"cpu": 512}
_POSITIONS_PER_PIECE_ELSEWHERE = 1 << 14


def decodes_in_pieces(model: Any) -> bool:
    """Whether the decoder can be run on a part of the rows at a time within a pass of the model.

    So it is where the model's ``forward``, below any data-parallel wrappers, is one of fairseq's
    that return what the decoder returns, unless modules in it wait for other workers: these have
    other numbers of pieces.
    """
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    if kinds & _WAITING_LAYERS:
        return False
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    plain = (FairseqEncoderDecoderModel.forward, LSTMModel.forward, TransformerModelBase.forward)
    if type(model).forward not in plain or "forward" in vars(model):
        return False
    # A hook would get the pieces' logits.
    return not (model._forward_hooks or model.decoder._forward_hooks)


@dataclass(frozen=True)
class ExistingPositions:
    """Which of the positions ``[rows, length]`` of decoded outputs a pass computes.

    ``shape``: rows and length.
    ``pieces``: ``[rows]`` int64 of the rows that go through the decoder together, and the length
    of the longest of them.  Shorter ones have positions there that do not exist.
    ``same_as``: ``[rows]`` int64, the row that stands for each; None where each stands for itself.
    """

    shape: tuple[int, int]
    pieces: Sequence[tuple[Tensor, int]]
    same_as: Tensor | None

    @classmethod
    def of(cls, tokens: Tensor, lengths: Tensor, group: int) -> ExistingPositions:
        """Of decoded outputs; the host waits for them.

        Args:
            tokens: ``[rows, length]``.
            lengths: ``[rows]``, positions that exist.
            group: so many rows, side by side, have one source; equal ones of these are computed
                once.
        """
        sizes, same_as, firsts = lengths.tolist(), [], {}
        for row, (output, size) in enumerate(zip(tokens.tolist(), sizes, strict=True)):
            same_as.append(firsts.setdefault((row // group, *output[:size]), row))
        order = sorted(firsts.values(), key=lambda row: -sizes[row])
        device = tokens.device
        most = _POSITIONS_PER_PIECE.get(device.type, _POSITIONS_PER_PIECE_ELSEWHERE)
        pieces, start = [], 0
        while start < len(order):
            longest = max(sizes[order[start]], 1)
            rows = order[start : start + max(most // longest, 1)]
            pieces.append((torch.tensor(rows, device=device), longest))
            start += len(rows)
        distinct = len(order) == len(sizes)
        same = None if distinct else torch.tensor(same_as, device=device)
        return cls((tokens.size(0), tokens.size(1)), pieces, same)

    def logits(self, model: Any, net_input: dict[str, Any], fed: Tensor) -> list[Tensor]:
        """A pass of a model that :func:`decodes_in_pieces`: ``[positions, vocab]`` of each piece.

        Args:
            model: fairseq encoder-decoder model, possibly wrapped for data parallelism.
            net_input: ``sample["net_input"]``, of as many samples for each source as there are
                rows; its ``prev_output_tokens`` are ignored.
            fed: ``[rows, length]`` int64, the decoder's input.
        """
        encoder, decode = model.encoder, model.decoder.forward
        samples = self.shape[0] // net_input["src_tokens"].size(0)

        def forward(_: Tensor, encoder_out: Any, *arguments: Any, **keywords: Any) -> Any:
            logits, extra = [], None
            for rows, length in self.pieces:
                sources = torch.div(rows, samples, rounding_mode="floor")
                encoded = encoder.reorder_encoder_out(_copied(encoder_out), sources)
                some, extra = decode(fed[rows, :length], encoded, *arguments, **keywords)[:2]
                logits.append(some.flatten(0, 1))
            return logits, extra

        with replaced_method(model.decoder, "forward", forward):
            of_pieces: list[Tensor] = model(**{**net_input, "prev_output_tokens": fed})[0]
        return of_pieces

    @cached_property
    def indices(self) -> list[Tensor]:
        """Of each piece ``[positions]`` int64: its positions among all, row after row."""
        width = self.shape[1]
        return [
            (rows.unsqueeze(1) * width + torch.arange(length, device=rows.device)).flatten()
            for rows, length in self.pieces
        ]

    def spread(self, values: Sequence[Tensor]) -> Tensor:
        """``[rows, length, ...]`` of each piece's ``[positions, ...]``; 0 outside of the pieces."""
        packed, index = torch.cat(list(values)), torch.cat(self.indices)
        rows, width = self.shape
        full = packed.new_zeros(rows * width, *packed.shape[1:]).index_copy(0, index, packed)
        full = full.unflatten(0, (rows, width))
        return full if self.same_as is None else full.index_select(0, self.same_as)


def _copied(encoder_out: Any) -> Any:
    """New dicts and lists of the same tensors: fairseq's encoders reorder them in place."""
    if isinstance(encoder_out, dict):
        return {name: _copied(value) for name, value in encoder_out.items()}
    return list(map(_copied, encoder_out)) if isinstance(encoder_out, list) else encoder_out


class ExistingTokens(Distribution):
    """Distribution of one token at every position ``[rows, length]``, of which some exist.

    Elsewhere log-probability and entropy mean nothing, and may be infinite: mask them.

    Args:
        positions: those that exist.
        pieces: the distributions ``[positions]`` of each of its pieces.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, positions: ExistingPositions, pieces: Sequence[TokenCategorical]) -> None:
        self.positions, self.pieces = positions, pieces
        super().__init__(torch.Size(positions.shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """``[rows, length]``: ``log p(value)``, with gradient to the logits."""
        tokens = value.flatten()
        pairs = zip(self.pieces, self.positions.indices, strict=True)
        return self.positions.spread([piece.log_prob(tokens[index]) for piece, index in pairs])

    def entropy(self) -> Tensor:
        """``[rows, length]``: entropy in nats, no gradient."""
        return self.positions.spread([piece.entropy() for piece in self.pieces])
