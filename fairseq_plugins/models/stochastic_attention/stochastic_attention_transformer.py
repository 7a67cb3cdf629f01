"""``--arch stochastic_attention_transformer``: heads of its cross-attention choose a position."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerDecoderBase,
    TransformerModel,
    base_architecture,
    transformer_iwslt_de_en,
)
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor
from torch.nn import functional

from fairseq_plugins.flags import as_flag
from fairseq_plugins.models.extending import at_least_float32, flag
from fairseq_plugins.models.stochastic_attention.choice import AttentionFlags, PositionChoice
from fairseq_plugins.models.stochastic_attention.mixture import mixture_log_probabilities


@dataclass
class TransformerAttentionFlags(AttentionFlags):
    """Flags of stochastic attention, and those that a transformer has besides."""

    attention_in_layers: Optional[str] = flag(
        None,
        "decoder layers whose attention to the source is --attention, from 0, such as 0,2; the "
        "others stay soft [default: all]",
    )
    attention_in_heads: Optional[str] = flag(
        None, "heads of these layers, from 0, likewise [default: all]"
    )


class StochasticCrossAttention(MultiheadAttention):
    """``MultiheadAttention``, some of whose heads have weights from a :class:`PositionChoice`.

    fairseq's attention becomes one by :meth:`choose_with`, after its construction.
    """

    def choose_with(self, choice: PositionChoice, heads: Sequence[int]) -> None:
        """Let ``heads``, from 0, choose where they look; one alone for the mixture."""
        self.choice = choice
        self.register_buffer("_heads", torch.tensor(heads), persistent=False)
        self._all_heads = len(heads) == self.num_heads
        self._exists: Tensor | None = None
        self._log_weights: Tensor | None = None

    def start(self, exists: Tensor) -> None:
        """Begin a pass of the decoder over steps ``[batch, time]``, False at padding."""
        self._exists, self._log_weights = exists, None

    def take_log_weights(self) -> Tensor | None:
        """``log p(position)``, ``[batch, time, src_len]``, under ``exact``; otherwise None."""
        log_weights, self._log_weights = self._log_weights, None
        return log_weights

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        *,
        need_weights: bool = True,
        before_softmax: bool = False,
        need_head_weights: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Arguments as of ``MultiheadAttention``.

        Returns:
            ``[time, batch, channels]``, and the weights: ``[batch, time, src_len]`` or, of each
            head, ``[heads, batch, time, src_len]``.  Under ``exact`` the first is
            ``[time * src_len, batch, channels]``, with the output of step t if the chosen head
            looks at position a at index ``t * src_len + a``.
        """
        selection = "soft" if before_softmax else self.choice.selection()
        options.update(need_weights=need_weights, need_head_weights=need_head_weights)
        if selection == "soft":
            return super().forward(query, key, value, before_softmax=before_softmax, **options)
        scores, values = super().forward(query, key, value, before_softmax=True, **options)
        time, batch, _ = query.shape
        scores = at_least_float32(scores.view(batch, self.num_heads, time, -1))
        values = values.view(-1, self.num_heads, values.size(1), self.head_dim)
        if selection == "exact":
            weights = scores.softmax(-1)
            attended = self._each_position(scores, weights, values)
        else:
            weights = self._weights(selection, scores)
            dropped = self.dropout_module(weights.type_as(values))
            attended = self.out_proj(self._contexts(dropped, values))
        if not (need_weights or need_head_weights):
            return attended, None
        weights = weights.transpose(0, 1)
        return attended, weights if need_head_weights else weights.mean(0)

    def _weights(self, selection: str, scores: Tensor) -> Tensor:
        """``[batch, heads, time, src_len]``, of the shape of ``scores``."""
        chosen = scores if self._all_heads else scores.index_select(1, self._heads)
        # Time follows the batch: a choice at step t is credited with the costs from step t on.
        weights = self.choice.weights(selection, chosen.transpose(1, 2), mask=self._exists)
        weights = weights.transpose(1, 2)
        if self._all_heads:
            return weights
        return scores.softmax(-1).index_copy(1, self._heads, weights)

    def _contexts(self, weights: Tensor, values: Tensor) -> Tensor:
        """Weighted sums of values, heads concatenated, ``[time, batch, channels]``.

        Weights are ``[batch, heads, time, src_len]``, after dropout; values ``[sources, heads,
        src_len, head_dim]``: beams of a source may share its own.
        """
        batch, heads, time, src_len = weights.shape
        weights = weights.view(values.size(0), -1, heads, time, src_len)
        contexts = torch.einsum("bxhts,bhsd->tbxhd", weights, values)
        return contexts.reshape(time, batch, -1)

    def _each_position(self, scores: Tensor, weights: Tensor, values: Tensor) -> Tensor:
        """``[time * src_len, batch, channels]``: outputs with the chosen head at each position."""
        batch, _, time, src_len = scores.shape
        self._log_weights = scores.index_select(1, self._heads).squeeze(1).log_softmax(-1)
        # Dropout of the chosen head is that of the position's weight, which is 1 there.
        weights = self.dropout_module(weights.index_fill(1, self._heads, 1).type_as(values))
        of_position = weights.index_select(1, self._heads).permute(2, 3, 0, 1)
        others = self._contexts(weights.index_fill(1, self._heads, 0), values)
        # The output projection is linear: what the chosen head adds does not depend on the step.
        of_head = values.index_select(1, self._heads).squeeze(1)
        of_head = of_head.repeat_interleave(batch // of_head.size(0), dim=0)
        columns = self.out_proj.weight.view(-1, self.num_heads, self.head_dim)
        column = columns.index_select(1, self._heads).squeeze(1)
        added = functional.linear(of_head, column).transpose(0, 1)  # [src_len, batch, channels]
        together = self.out_proj(others).unsqueeze(1).addcmul(of_position.type_as(added), added)
        return together.reshape(time * src_len, batch, -1)


class StochasticDecoderLayer(TransformerDecoderLayerBase):
    """``TransformerDecoderLayerBase`` around a :class:`StochasticCrossAttention`."""

    def residual_connection(self, x: Tensor, residual: Tensor) -> Tensor:
        """The sum; under ``exact`` the outputs of all positions have their step's residual."""
        if x.size(0) != residual.size(0):
            residual = residual.repeat_interleave(x.size(0) // residual.size(0), dim=0)
        return super().residual_connection(x, residual)


class StochasticAttentionTransformerDecoder(TransformerDecoderBase):
    """fairseq's decoder, some of whose layers are :class:`StochasticDecoderLayer`."""

    without_state: str | None = None
    """Why a step's output is not computed from one state; None where it is."""

    choosing: list[StochasticCrossAttention]

    def extract_features(self, *arguments: Any, **options: Any) -> tuple[Tensor, Any]:
        """As in the base class; under ``exact`` the expected features."""
        features, extra, log_weights = self._aligned_features(*arguments, **options)
        if log_weights is not None:
            weights = log_weights.exp().type_as(features).unsqueeze(-1)
            features = (weights * features).sum(-2)
        return features, extra

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Any = None,
        incremental_state: Any = None,
        features_only: bool = False,
        src_lengths: Any = None,
        return_all_hiddens: bool = False,
        **alignment: Any,
    ) -> tuple[Tensor, Any]:
        """Logits ``[batch, tgt_len, vocab]`` and more; log-probabilities under ``exact``."""
        arguments = (prev_output_tokens, encoder_out, incremental_state)
        if features_only:
            return self.extract_features(*arguments, **alignment)
        features, extra, log_weights = self._aligned_features(*arguments, **alignment)
        if log_weights is None:
            return self.output_layer(features), extra
        output = self.output_projection
        return mixture_log_probabilities(features, log_weights, output.weight, output.bias), extra

    def _aligned_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Any,
        incremental_state: Any = None,
        *arguments: Any,
        **options: Any,
    ) -> tuple[Tensor, Any, Tensor | None]:
        """Features ``[batch, time, channels]``, what comes with them, and None.

        Under ``exact``: features ``[batch, time, src_len, channels]``, and ``log p(position)``
        ``[batch, time, src_len]`` in the place of None.
        """
        new = prev_output_tokens if incremental_state is None else prev_output_tokens[:, -1:]
        exists = new.ne(self.padding_idx)
        for attention in self.choosing:
            attention.start(exists)
        features, extra = super().extract_features(
            prev_output_tokens, encoder_out, incremental_state, *arguments, **options
        )
        log_weights = self.choosing[-1].take_log_weights()  # exact attention is in the last alone
        if log_weights is not None:
            features = features.reshape(*log_weights.shape, -1)
        return features, extra, log_weights


@register_model("stochastic_attention_transformer")
class StochasticAttentionTransformer(TransformerModel):
    """fairseq's ``transformer``, with stochastic cross-attention in chosen layers and heads.

    Its parameters are those of ``transformer``: checkpoints of one load into the other.
    """

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Add the flags of ``transformer`` and those of attention."""
        super().add_args(parser)
        TransformerAttentionFlags.add_to(parser)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "StochasticAttentionTransformer":
        """Build the model.

        Raises:
            ValueError: a flag is out of its range, or does not go with this attention.
        """
        flags = TransformerAttentionFlags.of(args)
        _check_other_flags(args, flags)
        model = super().build_model(args, task)
        if flags.is_soft:
            return model
        decoder = model.decoder
        layers = [
            layer for layer in decoder.modules() if isinstance(layer, TransformerDecoderLayerBase)
        ]
        if len(layers) < len(decoder.layers) or any(layer.encoder_attn is None for layer in layers):
            raise ValueError(
                "--attention is about the attention of every decoder layer to the source: train "
                "without --no-cross-attention and --base-layers"
            )
        last, head_count = len(layers) - 1, layers[0].encoder_attn.num_heads
        chosen = _indices("--attention-in-layers", flags.attention_in_layers, last + 1)
        heads = _indices("--attention-in-heads", flags.attention_in_heads, head_count)
        flags.check_decoder(decoder)
        if flags.marginalises and (chosen != [last] or len(heads) > 1):
            raise ValueError(
                "the sum over alignments (exact) is that of one head of the last layer: give "
                f"--attention-in-layers {last} --attention-in-heads 0, or another head"
            )
        # The modules are fairseq's, whatever wraps them; their classes add the choice.
        decoder.__class__ = StochasticAttentionTransformerDecoder
        decoder.without_state = flags.without_state
        decoder.choosing = [layers[index].encoder_attn for index in chosen]
        for index, attention in zip(chosen, decoder.choosing, strict=True):
            layers[index].__class__ = StochasticDecoderLayer
            attention.__class__ = StochasticCrossAttention
            attention.choose_with(PositionChoice(f"attention.layer{index}", flags), heads)
        return model


@register_model_architecture("stochastic_attention_transformer", "stochastic_attention_transformer")
def stochastic_attention_transformer(args: Any) -> None:
    """Sizes of fairseq's ``transformer``."""
    TransformerAttentionFlags.set_defaults(args)
    base_architecture(args)


@register_model_architecture(
    "stochastic_attention_transformer", "stochastic_attention_transformer_iwslt_de_en"
)
def stochastic_attention_transformer_iwslt_de_en(args: Any) -> None:
    """Sizes of fairseq's ``transformer_iwslt_de_en``."""
    transformer_iwslt_de_en(args)
    stochastic_attention_transformer(args)


def _check_other_flags(args: Any, flags: AttentionFlags) -> None:
    """Raise ``ValueError`` for flags of fairseq's with which results would be wrong."""
    given = (
        f"--attention {flags.attention} --attention-in-evaluation {flags.attention_in_evaluation}"
    )
    recomputed = (
        given,
        "layers that are computed a second time would choose otherwise, or lose what they chose",
    )
    refused = {
        "offload_activations": recomputed,
        "checkpoint_activations": recomputed,
        "encoder_xformers_att_config": (given, "that attention does not give its scores"),
    }
    if flags.is_soft:
        refused = {}
    if flags.attention == "exact":
        exact = "--attention exact", "which computes with weights as they are"
        refused.update(quant_noise_pq=exact, quant_noise_scalar=exact)
    for name, (other, reason) in refused.items():
        if getattr(args, name, None):
            raise ValueError(f"{as_flag(name)} does not go with {other}: {reason}; leave it out")


def _indices(flag: str, text: str | None, size: int) -> list[int]:
    """The numbers in a text such as ``0,2``, in ascending order; None stands for all of ``size``.

    Raises ``ValueError`` unless they are different, from 0 to ``size - 1``.
    """
    if text is None:
        return list(range(size))
    try:
        indices = sorted(int(index) for index in str(text).split(","))
    except ValueError:
        raise ValueError(
            f"{flag} must be numbers with commas between, as 0,2; got {text!r}"
        ) from None
    if len(set(indices)) < len(indices) or indices[0] < 0 or indices[-1] >= size:
        raise ValueError(
            f"{flag} must be different numbers from 0 to {size - 1} for this model; got {text}"
        )
    return indices
