"""fairseq's attention over the source, some of whose heads choose one position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fairseq.models.transformer import TransformerConfig
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor
from torch.nn import functional

from fairseq_plugins.models.stochastic_attention.choice import PositionChoice, at_least_float32


class StochasticCrossAttention(MultiheadAttention):
    """``MultiheadAttention``, and nothing else until :meth:`choose_with` is called."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.choice: PositionChoice | None = None

    def choose_with(self, choice: PositionChoice, heads: Sequence[int]) -> None:
        """Let heads choose where they look.

        Args:
            choice: how; of all these heads.
            heads: which, from 0; one only for the mixture over alignments.
        """
        self.choice = choice
        self.register_buffer("_heads", torch.tensor(heads), persistent=False)
        self._all_heads = len(heads) == self.num_heads
        self._exists: Tensor | None = None
        self._log_weights: Tensor | None = None

    def start(self, exists: Tensor) -> None:
        """Begin a pass of the decoder.

        Args:
            exists: ``[batch, time]`` bool, the steps that this pass computes, False at padding.
        """
        self._exists, self._log_weights = exists, None

    def take_log_weights(self) -> Tensor | None:
        """``[batch, time, src_len]``, of the mixture; None if none was asked for."""
        log_weights, self._log_weights = self._log_weights, None
        return log_weights

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: Any = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Arguments as of ``MultiheadAttention``.

        Returns:
            ``[time, batch, channels]``, and the weights: ``[batch, time, src_len]`` or, of each
            head, ``[heads, batch, time, src_len]``.  Where a mixture over alignments is asked
            for, the first is ``[time * src_len, batch, channels]``: row ``t * src_len + a`` is
            step t if the chosen head looks at position a.
        """

        def scores_and_values(before_softmax: bool) -> Any:
            return MultiheadAttention.forward(
                self,
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                incremental_state=incremental_state,
                need_weights=need_weights,
                static_kv=static_kv,
                attn_mask=attn_mask,
                before_softmax=before_softmax,
                need_head_weights=need_head_weights,
            )

        way = "soft" if self.choice is None or before_softmax else self.choice.way()
        if way == "soft":
            return scores_and_values(before_softmax)
        scores, values = scores_and_values(before_softmax=True)
        time, batch, _ = query.shape
        scores = at_least_float32(scores.view(batch, self.num_heads, time, -1))
        values = values.view(-1, self.num_heads, values.size(1), self.head_dim)
        if way == "exact":
            weights = scores.softmax(-1)
            attended = self._each_alignment(scores, weights, values)
        else:
            weights = self._weights(way, scores)
            dropped = self.dropout_module(weights.type_as(values))
            attended = self.out_proj(self._contexts(dropped, values))
        if not (need_weights or need_head_weights):
            return attended, None
        weights = weights.transpose(0, 1)
        return attended, weights if need_head_weights else weights.mean(0)

    def _weights(self, way: str, scores: Tensor) -> Tensor:
        """``[batch, heads, time, src_len]``, of the shape of ``scores``."""
        assert self.choice is not None
        chosen = scores if self._all_heads else scores.index_select(1, self._heads)
        # Time after the batch: step t answers for the costs from step t on.
        weights = self.choice.weights(way, chosen.transpose(1, 2), mask=self._exists)
        weights = weights.transpose(1, 2)
        return (
            weights if self._all_heads else scores.softmax(-1).index_copy(1, self._heads, weights)
        )

    def _contexts(self, weights: Tensor, values: Tensor) -> Tensor:
        """Sums of values, all heads side by side.

        Args:
            weights: ``[batch, heads, time, src_len]``, after dropout.
            values: ``[sources, heads, src_len, head_dim]``; beams of a source may share its own.

        Returns:
            ``[time, batch, channels]``.
        """
        batch, heads, time, src_len = weights.shape
        weights = weights.view(values.size(0), -1, heads, time, src_len)
        contexts = torch.einsum("bxhts,bhsd->tbxhd", weights, values)
        return contexts.reshape(time, batch, -1)

    def _each_alignment(self, scores: Tensor, weights: Tensor, values: Tensor) -> Tensor:
        """``[time * src_len, batch, channels]``: the chosen head at one position in each row."""
        batch, _, time, src_len = scores.shape
        self._log_weights = scores.index_select(1, self._heads).squeeze(1).log_softmax(-1)
        # Dropout of the chosen head is that of the position's weight, which is 1 there.
        weights = self.dropout_module(weights.index_fill(1, self._heads, 1).type_as(values))
        kept = weights.index_select(1, self._heads).permute(2, 3, 0, 1)
        others = self._contexts(weights.index_fill(1, self._heads, 0), values)
        # The output projection is linear: what the chosen head adds does not depend on the step.
        of_head = values.index_select(1, self._heads).squeeze(1)
        of_head = of_head.repeat_interleave(batch // of_head.size(0), dim=0)
        columns = self.out_proj.weight.view(-1, self.num_heads, self.head_dim)
        column = columns.index_select(1, self._heads).squeeze(1)
        added = functional.linear(of_head, column).transpose(0, 1)  # [src_len, batch, channels]
        together = self.out_proj(others).unsqueeze(1).addcmul(kept.type_as(added), added)
        return together.reshape(time * src_len, batch, -1)


class StochasticDecoderLayer(TransformerDecoderLayerBase):
    """``TransformerDecoderLayerBase`` with :class:`StochasticCrossAttention`."""

    def build_encoder_attention(
        self, embed_dim: int, cfg: TransformerConfig
    ) -> StochasticCrossAttention:
        """As in the base class."""
        return StochasticCrossAttention(
            embed_dim,
            cfg.decoder.attention_heads,
            kdim=cfg.encoder.embed_dim,
            vdim=cfg.encoder.embed_dim,
            dropout=cfg.attention_dropout,
            encoder_decoder_attention=True,
            q_noise=self.quant_noise,
            qn_block_size=self.quant_noise_block_size,
            xformers_att_config=cfg.encoder.xformers_att_config,
        )

    def residual_connection(self, x: Tensor, residual: Tensor) -> Tensor:
        """The sum; of a step's alignments, each with the residual of the step."""
        if x.size(0) != residual.size(0):
            residual = residual.repeat_interleave(x.size(0) // residual.size(0), dim=0)
        return super().residual_connection(x, residual)
