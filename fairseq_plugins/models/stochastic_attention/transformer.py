"""``--arch stochastic_attention_transformer``: heads of its cross-attention choose a position."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from fairseq.data import Dictionary
from fairseq.distributed import fsdp_wrap
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerModel,
    base_architecture,
)
from fairseq.models.transformer.transformer_legacy import transformer_iwslt_de_en
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from torch import Tensor, nn

from fairseq_plugins.models.stochastic_attention.choice import PositionChoice
from fairseq_plugins.models.stochastic_attention.cross_attention import (
    StochasticCrossAttention,
    StochasticDecoderLayer,
)
from fairseq_plugins.models.stochastic_attention.flags import (
    AttentionSettings,
    add_flags,
    indices_of,
    set_defaults,
)
from fairseq_plugins.models.stochastic_attention.mixture import mixture_log_probabilities
from fairseq_plugins.models.stochastic_attention.unused_flags import (
    RefusesUnusedFlags,
    unused_flags,
)


class StochasticAttentionTransformerDecoder(TransformerDecoderBase):
    """fairseq's decoder; which heads choose where they look is told after it is built."""

    without_state: str | None = None
    """Why a step's output comes from no one state; None where it does."""

    def build_decoder_layer(
        self, cfg: TransformerConfig, no_encoder_attn: bool = False
    ) -> nn.Module:
        """As in the base class, with layers whose cross-attention can choose."""
        layer = StochasticDecoderLayer(cfg, no_encoder_attn)
        if cfg.checkpoint_activations:
            layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
        smallest = 0 if cfg.checkpoint_activations else cfg.min_params_to_wrap
        return fsdp_wrap(layer, min_num_params=smallest)

    def choose_with(
        self, settings: AttentionSettings, layers: Sequence[int], heads: Sequence[int]
    ) -> None:
        """Let heads choose where they look.

        Args:
            settings: from the flags.
            layers, heads: which, from 0; the same heads in each of these layers.
        """
        self.without_state = settings.without_state
        for layer in layers:
            choice = PositionChoice(f"attention.layer{layer}", settings)
            self.layers[layer].encoder_attn.choose_with(choice, heads)

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Any,
        incremental_state: Any = None,
        full_context_alignment: bool = False,
        alignment_layer: int | None = None,
        alignment_heads: int | None = None,
    ) -> tuple[Tensor, Any]:
        """As in the base class; of the mixture over alignments, the expected features."""
        features, extra, log_weights = self._aligned_features(
            prev_output_tokens,
            encoder_out,
            incremental_state,
            full_context_alignment,
            alignment_layer,
            alignment_heads,
        )
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
        full_context_alignment: bool = False,
        alignment_layer: int | None = None,
        alignment_heads: int | None = None,
        src_lengths: Any = None,
        return_all_hiddens: bool = False,
    ) -> tuple[Tensor, Any]:
        """Logits ``[batch, tgt_len, vocab]``, or log-probabilities of the mixture; and more."""
        which = (
            prev_output_tokens,
            encoder_out,
            incremental_state,
            full_context_alignment,
            alignment_layer,
            alignment_heads,
        )
        if features_only:
            return self.extract_features(*which)
        features, extra, log_weights = self._aligned_features(*which)
        if log_weights is None:
            return self.output_layer(features), extra
        output = self.output_projection
        return mixture_log_probabilities(features, log_weights, output.weight, output.bias), extra

    def _aligned_features(
        self, prev_output_tokens: Tensor, encoder_out: Any, incremental_state: Any, *others: Any
    ) -> tuple[Tensor, Any, Tensor | None]:
        """Features ``[batch, time, channels]``, what comes with them, and None.

        Of the mixture over alignments: features ``[batch, time, src_len, channels]``, and
        ``log p(position)`` ``[batch, time, src_len]`` in the place of None.
        """
        new = prev_output_tokens if incremental_state is None else prev_output_tokens[:, -1:]
        exists = new.ne(self.padding_idx)
        choosing = [
            layer.encoder_attn
            for layer in self.layers.children()
            if getattr(getattr(layer, "encoder_attn", None), "choice", None) is not None
        ]
        for attention in choosing:
            attention.start(exists)
        features, extra = super().extract_features(
            prev_output_tokens, encoder_out, incremental_state, *others
        )
        found = [attention.take_log_weights() for attention in choosing]
        log_weights = next((weights for weights in found if weights is not None), None)
        if log_weights is not None:
            features = features.reshape(*log_weights.shape, -1)
        return features, extra, log_weights


@register_model("stochastic_attention_transformer")
class StochasticAttentionTransformer(RefusesUnusedFlags, TransformerModel):
    """fairseq's ``transformer``, with cross-attention of every kind in chosen layers and heads.

    Its parameters are those of ``transformer``: checkpoints of one load into the other.
    """

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Add model-specific arguments to the parser."""
        super().add_args(parser)
        add_flags(parser)
        parser.add_argument(
            "--attention-in-layers",
            metavar="LIST",
            help="decoder layers whose attention to the source is --attention, from 0, such as 0,2;"
            " the others stay soft (default: all)",
        )
        parser.add_argument(
            "--attention-in-heads",
            metavar="LIST",
            help="heads of these layers, from 0, likewise (default: all)",
        )

    @classmethod
    def build_model(cls, args: Any, task: Any) -> StochasticAttentionTransformer:
        """Build a new model instance.

        Raises:
            ValueError: a flag has a value that it cannot have, or does not go with this attention.
        """
        settings = AttentionSettings.of(args)
        set_transformer_defaults(args)
        _check_modules(args, settings)
        model = super().build_model(args, task)
        model.unused_flags = unused_flags(args, settings)
        if settings.is_soft:
            return model
        decoder = model.decoder
        attentions = [getattr(layer, "encoder_attn", None) for layer in decoder.layers.children()]
        if not all(isinstance(found, StochasticCrossAttention) for found in attentions):
            raise ValueError(
                "--attention is about the attention of every decoder layer to the source: train "
                "without --no-cross-attention and --base-layers"
            )
        layers = indices_of("--attention-in-layers", args.attention_in_layers, len(attentions))
        heads = indices_of("--attention-in-heads", args.attention_in_heads, attentions[0].num_heads)
        if settings.marginalises:
            last = len(attentions) - 1
            if decoder.adaptive_softmax is not None:
                raise ValueError(
                    "--attention exact mixes distributions over the whole vocabulary: train "
                    "without --adaptive-softmax-cutoff"
                )
            if layers != [last] or len(heads) > 1:
                raise ValueError(
                    "the sum over alignments (exact) is that of one head of the last layer: give "
                    f"--attention-in-layers {last} --attention-in-heads 0, or another head"
                )
        decoder.choose_with(settings, layers, heads)
        return model

    @classmethod
    def build_decoder(
        cls, args: Any, tgt_dict: Dictionary, embed_tokens: nn.Embedding
    ) -> StochasticAttentionTransformerDecoder:
        """As in the base class, with the decoder of this module."""
        cfg = TransformerConfig.from_namespace(args)
        return StochasticAttentionTransformerDecoder(
            cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention
        )


@register_model_architecture("stochastic_attention_transformer", "stochastic_attention_transformer")
def stochastic_attention_transformer(args: Any) -> None:
    """Sizes of fairseq's ``transformer``."""
    set_defaults(args)
    set_transformer_defaults(args)
    base_architecture(args)


@register_model_architecture(
    "stochastic_attention_transformer", "stochastic_attention_transformer_iwslt_de_en"
)
def stochastic_attention_transformer_iwslt_de_en(args: Any) -> None:
    """Sizes of fairseq's ``transformer_iwslt_de_en``."""
    transformer_iwslt_de_en(args)
    stochastic_attention_transformer(args)


def _check_modules(args: Any, settings: AttentionSettings) -> None:
    """Raise ``ValueError`` for what fairseq puts around or into attention, and this cannot have."""
    if not settings.is_soft:
        flags = f"--attention {settings.kind} --attention-in-evaluation {settings.evaluation}"
        for flag in ("offload_activations", "checkpoint_activations"):
            if getattr(args, flag, False):
                raise ValueError(
                    f"--{flag.replace('_', '-')} does not go with {flags}: layers that are "
                    "computed a second time would choose otherwise, or lose what they chose; use "
                    "it with --attention soft, or leave it out"
                )
        if getattr(args, "encoder_xformers_att_config", None):
            raise ValueError(
                f"--encoder-xformers-att-config does not go with {flags}: that attention does not "
                "give its scores; leave it out"
            )
    for flag in ("quant_noise_pq", "quant_noise_scalar"):
        if settings.kind == "exact" and (getattr(args, flag, None) or 0) > 0:
            raise ValueError(
                f"--{flag.replace('_', '-')} does not go with --attention exact, which computes "
                "with weights as they are; leave it out, or use another kind"
            )


def set_transformer_defaults(args: Any) -> None:
    """As :func:`set_defaults`, of the flags that only the transformer has."""
    args.attention_in_layers = getattr(args, "attention_in_layers", None)
    args.attention_in_heads = getattr(args, "attention_in_heads", None)
