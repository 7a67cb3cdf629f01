"""``--arch stochastic_attention_lstm``: fairseq's LSTM with stochastic attention."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.lstm import AttentionLayer, LSTMDecoder, LSTMModel, base_architecture
from torch import Tensor

from fairseq_plugins.models.extending import at_least_float32
from fairseq_plugins.models.stochastic_attention.choice import AttentionFlags, PositionChoice
from fairseq_plugins.models.stochastic_attention.mixture import mixture_log_probabilities

NODE = "attention"
"""Name of the stochastic graph's nodes, one for each decoder step."""


class StochasticAttentionLayer(AttentionLayer):
    """fairseq's attention, whose weights come from a :class:`PositionChoice`.

    ``choice`` is set after construction.
    """

    choice: PositionChoice

    def start(self, exists: Tensor) -> None:
        """Begin a pass of the decoder over steps ``[batch, time]``, False at padding."""
        self._exists, self._step = exists, 0
        self._alignments: list[tuple[Tensor, Tensor]] = []

    def forward(
        self, input: Tensor, source_hids: Tensor, encoder_padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One decoder step; arguments and results as fairseq's.

        Under ``exact`` results are those of soft attention, and :meth:`mixture` has the rest.
        """
        step, self._step = self._step, self._step + 1
        selection = self.choice.selection()
        if selection == "soft":
            return super().forward(input, source_hids, encoder_padding_mask)
        scores = (source_hids * self.input_proj(input).unsqueeze(0)).sum(dim=2)
        scores = at_least_float32(scores)
        if encoder_padding_mask is not None:
            scores = scores.masked_fill(encoder_padding_mask, -float("inf"))
        scores = scores.t()
        if selection == "exact":
            log_weights = scores.log_softmax(-1)
            self._alignments.append((input, log_weights))
            weights = log_weights.exp()
        else:
            exists = self._exists[:, step]
            weights = self.choice.weights(selection, scores, mask=exists, step=step)
        weights = weights.t().type_as(source_hids)
        context = (weights.unsqueeze(2) * source_hids).sum(dim=0)
        return torch.tanh(self.output_proj(torch.cat((context, input), dim=1))), weights

    def mixture(self, source_hids: Tensor) -> tuple[Tensor, Tensor] | None:
        """Outputs for each single position, of all steps since :meth:`start`.

        ``[batch, time, src_len, output_dim]`` and ``log p(position)`` ``[batch, time, src_len]``,
        from ``source_hids`` ``[src_len, batch, source_dim]``; None unless attention is ``exact``.
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
    """fairseq's decoder with :class:`StochasticAttentionLayer`."""

    without_state: str | None = None
    """Why a step's output is not computed from one state; None where it is."""

    def extract_features(
        self, prev_output_tokens: Tensor, encoder_out: Any = None, incremental_state: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        """As ``LSTMDecoder``; under ``exact`` the features of soft attention."""
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
        """Logits ``[batch, tgt_len, vocab]`` and weights; log-probabilities under ``exact``."""
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
class StochasticAttentionLSTM(LSTMModel):
    """fairseq's ``lstm`` with soft, sampled, relaxed, greedy or marginalised attention.

    Its parameters are those of ``lstm``: checkpoints of one load into the other.
    """

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        """Add the flags of ``lstm`` and those of attention."""
        LSTMModel.add_args(parser)
        AttentionFlags.add_to(parser)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> StochasticAttentionLSTM:
        """Build the model.

        Raises:
            ValueError: a flag is out of its range, or does not go with this attention.
        """
        flags = AttentionFlags.of(args)
        model = super().build_model(args, task)
        decoder = model.decoder
        if decoder.attention is None:
            raise ValueError(
                f"--arch {args.arch} is about attention: leave --decoder-attention on, or use "
                "--arch lstm"
            )
        flags.check_decoder(decoder)
        # LSTMModel.build_model leaves no choice of the classes.
        decoder.__class__ = StochasticAttentionLSTMDecoder
        decoder.without_state = flags.without_state
        decoder.attention.__class__ = StochasticAttentionLayer
        decoder.attention.choice = PositionChoice(NODE, flags)
        return model


@register_model_architecture("stochastic_attention_lstm", "stochastic_attention_lstm")
def stochastic_attention_lstm(args: Any) -> None:
    """Sizes of fairseq's ``lstm``."""
    AttentionFlags.set_defaults(args)
    base_architecture(args)


@register_model_architecture("stochastic_attention_lstm", "stochastic_attention_lstm_256")
def stochastic_attention_lstm_256(args: Any) -> None:
    """The model of the experiments of Golikov, Zhukov and Kretov (arXiv 1711.07724).

    Theirs has a bidirectional encoder and 256 units.  The rest is this preset's own choice: one
    layer in encoder and decoder, embeddings of 256, and 256 units in each direction.
    """
    args.encoder_bidirectional = getattr(args, "encoder_bidirectional", True)
    for size in ("embed_dim", "hidden_size"):
        for side in ("encoder", "decoder"):
            setattr(args, f"{side}_{size}", getattr(args, f"{side}_{size}", 256))
    args.decoder_out_embed_dim = getattr(args, "decoder_out_embed_dim", 256)
    stochastic_attention_lstm(args)
