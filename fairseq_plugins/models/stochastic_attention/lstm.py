"""``--arch stochastic_attention_lstm``: fairseq's LSTM that chooses where to look."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import torch
from fairseq import utils
from fairseq.models import register_model, register_model_architecture
from fairseq.models.lstm import AttentionLayer, LSTMDecoder, LSTMModel, base_architecture
from torch import Tensor

from fairseq_plugins.models.stochastic_attention.choice import PositionChoice, at_least_float32
from fairseq_plugins.models.stochastic_attention.flags import (
    AttentionSettings,
    add_flags,
    set_defaults,
)
from fairseq_plugins.models.stochastic_attention.mixture import mixture_log_probabilities
from fairseq_plugins.models.stochastic_attention.unused_flags import (
    RefusesUnusedFlags,
    unused_flags,
)

NODE = "attention"
"""Name of the graph's nodes, one for each decoder step."""


class StochasticAttentionLayer(AttentionLayer):
    """fairseq's attention, with weights of every kind.

    Args:
        input_dim, source_dim, output_dim: sizes of the decoder's state, of a source position and
            of the result.
        settings: from the flags.
    """

    def __init__(
        self, input_dim: int, source_dim: int, output_dim: int, settings: AttentionSettings
    ) -> None:
        super().__init__(input_dim, source_dim, output_dim)
        self.choice = PositionChoice(NODE, settings)
        self._exists: Tensor = torch.empty(0)
        self._step = 0
        self._alignments: list[tuple[Tensor, Tensor]] = []

    def start(self, exists: Tensor) -> None:
        """Begin a pass of the decoder.

        Args:
            exists: ``[batch, time]`` bool, the steps that this pass computes, False at padding.
        """
        self._exists, self._step, self._alignments = exists, 0, []

    def forward(
        self, input: Tensor, source_hids: Tensor, encoder_padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            input: ``[batch, input_dim]``, the decoder's state.
            source_hids: ``[src_len, batch, source_dim]``.
            encoder_padding_mask: ``[src_len, batch]``, True at padding.

        Returns:
            ``[batch, output_dim]``, and the weights ``[src_len, batch]``.  Of the mixture over
            alignments, which :meth:`mixture` gives, both are what soft attention has.
        """
        step, self._step = self._step, self._step + 1
        way = self.choice.way()
        if way == "soft":
            return super().forward(input, source_hids, encoder_padding_mask)
        scores = (source_hids * self.input_proj(input).unsqueeze(0)).sum(dim=2)
        scores = at_least_float32(scores)
        if encoder_padding_mask is not None:
            scores = scores.masked_fill(encoder_padding_mask, -float("inf"))
        scores = scores.t()
        if way == "exact":
            log_weights = scores.log_softmax(-1)
            self._alignments.append((input, log_weights))
            weights = log_weights.exp()
        else:
            weights = self.choice.weights(way, scores, mask=self._exists[:, step], step=step)
        weights = weights.t().type_as(source_hids)
        context = (weights.unsqueeze(2) * source_hids).sum(dim=0)
        return torch.tanh(self.output_proj(torch.cat((context, input), dim=1))), weights

    def mixture(self, source_hids: Tensor) -> tuple[Tensor, Tensor] | None:
        """What attention would give at each position alone, since :meth:`start`.

        Args:
            source_hids: ``[src_len, batch, source_dim]``.

        Returns:
            ``[batch, time, src_len, output_dim]`` and ``log p(position)``
            ``[batch, time, src_len]``; None if no mixture was asked for.
        """
        if not self._alignments:
            return None
        inputs, log_weights = zip(*self._alignments, strict=True)
        self._alignments = []
        from_source, from_input = self.output_proj.weight.split(
            [source_hids.size(2), self.output_proj.in_features - source_hids.size(2)], dim=1
        )
        sources = torch.einsum("sbd,od->bso", source_hids, from_source).unsqueeze(1)
        states = torch.einsum("btd,od->bto", torch.stack(inputs, 1), from_input).unsqueeze(2)
        return torch.tanh(sources + states), torch.stack(log_weights, 1)


class StochasticAttentionLSTMDecoder(LSTMDecoder):
    """fairseq's decoder with :class:`StochasticAttentionLayer`.

    Args:
        settings: from the flags.
        options: of ``LSTMDecoder``.
    """

    def __init__(self, settings: AttentionSettings, **options: Any) -> None:
        super().__init__(**options)
        hidden = self.hidden_size
        self.without_state = settings.without_state
        self.attention = StochasticAttentionLayer(
            hidden, self.encoder_output_units, hidden, settings
        )

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Any = None,
        incremental_state: Any = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``LSTMDecoder``; of the mixture over alignments, the features of soft attention."""
        computed = prev_output_tokens[:, -1:] if incremental_state else prev_output_tokens
        self.attention.start(computed.ne(self.dictionary.pad()))
        return super().extract_features(prev_output_tokens, encoder_out, incremental_state)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Any = None,
        incremental_state: Any = None,
        src_lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits ``[batch, tgt_len, vocab]``, or log-probabilities of the mixture; weights."""
        features, weights = self.extract_features(
            prev_output_tokens, encoder_out, incremental_state
        )
        mixture = self.attention.mixture(encoder_out[0])
        if mixture is None:
            return self.output_layer(features), weights
        aligned, log_weights = mixture
        aligned = self.dropout_out_module(aligned)
        if hasattr(self, "additional_fc"):
            aligned = self.dropout_out_module(self.additional_fc(aligned))
        if self.share_input_output_embed:
            weight, bias = self.embed_tokens.weight, None
        else:
            weight, bias = self.fc_out.weight, self.fc_out.bias
        return mixture_log_probabilities(aligned, log_weights, weight, bias), weights


@register_model("stochastic_attention_lstm")
class StochasticAttentionLSTM(RefusesUnusedFlags, LSTMModel):
    """fairseq's ``lstm`` whose attention is soft, sampled, relaxed, greedy or marginalised.

    Its parameters are those of ``lstm``: checkpoints of one load into the other.
    """

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        """Add model-specific arguments to the parser."""
        LSTMModel.add_args(parser)
        add_flags(parser)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> StochasticAttentionLSTM:
        """Build a new model instance.

        Raises:
            ValueError: a flag has a value that it cannot have, or goes with no attention.
        """
        settings = AttentionSettings.of(args)
        model = super().build_model(args, task)
        model.unused_flags = unused_flags(args, settings)
        plain = model.decoder
        if plain.attention is None:
            raise ValueError(
                f"--arch {args.arch} is about attention: leave --decoder-attention on, or use "
                "--arch lstm"
            )
        if settings.marginalises and plain.adaptive_softmax is not None:
            raise ValueError(
                "--attention exact mixes distributions over the whole vocabulary: train without "
                "--criterion adaptive_loss"
            )
        cutoff = None
        if plain.adaptive_softmax is not None:
            cutoff = utils.eval_str_list(args.adaptive_softmax_cutoff, type=int)
        # A model without this class draws the same initial parameters from the same seed.
        with torch.random.fork_rng(devices=[]):
            model.decoder = StochasticAttentionLSTMDecoder(
                settings,
                dictionary=plain.dictionary,
                embed_dim=args.decoder_embed_dim,
                hidden_size=args.decoder_hidden_size,
                out_embed_dim=args.decoder_out_embed_dim,
                num_layers=args.decoder_layers,
                dropout_in=args.decoder_dropout_in,
                dropout_out=args.decoder_dropout_out,
                encoder_output_units=plain.encoder_output_units,
                pretrained_embed=plain.embed_tokens,
                share_input_output_embed=plain.share_input_output_embed,
                adaptive_softmax_cutoff=cutoff,
                max_target_positions=plain.max_target_positions,
                residuals=plain.residuals,
            )
        model.decoder.load_state_dict(plain.state_dict())
        return model


@register_model_architecture("stochastic_attention_lstm", "stochastic_attention_lstm")
def stochastic_attention_lstm(args: Any) -> None:
    """Sizes of fairseq's ``lstm``."""
    set_defaults(args)
    base_architecture(args)


@register_model_architecture("stochastic_attention_lstm", "stochastic_attention_lstm_256")
def stochastic_attention_lstm_256(args: Any) -> None:
    """The model of the experiments of Golikov, Zhukov and Kretov (arXiv 1711.07724).

    Theirs has a bidirectional encoder and 256 units; what else is set here is the choice of this
    preset: one layer each in encoder and decoder, embeddings of 256, too, and 256 units in each
    direction of the encoder.
    """
    args.encoder_embed_dim = getattr(args, "encoder_embed_dim", 256)
    args.encoder_hidden_size = getattr(args, "encoder_hidden_size", 256)
    args.encoder_bidirectional = getattr(args, "encoder_bidirectional", True)
    args.decoder_embed_dim = getattr(args, "decoder_embed_dim", 256)
    args.decoder_hidden_size = getattr(args, "decoder_hidden_size", 256)
    args.decoder_out_embed_dim = getattr(args, "decoder_out_embed_dim", 256)
    stochastic_attention_lstm(args)
