"""``--arch actor_transformer``."""

from __future__ import annotations

from typing import Any

from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerDecoder,
    TransformerModel,
    base_architecture,
    transformer_iwslt_de_en,
)
from torch import Tensor, nn

from fairseq_plugins.models.actor.actor import Actor, ActorFlags, ActorModel


class ActorTransformerDecoder(TransformerDecoder):
    """A transformer decoder that adds the actor's output to its input embeddings.

    The actor reads the embedding of a step, with its position, and the mean of the encoder's
    output: the perturbations of all steps are computed at once.
    """

    actor: Actor

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: dict[str, list[Tensor]] | None,
        *args: Any,
        **options: Any,
    ) -> Any:
        """As the transformer's."""
        if encoder_out is None:
            raise ValueError("the actor reads the source: the decoder needs encoder_out")
        padding = encoder_out["encoder_padding_mask"]
        source = self.actor.source(
            encoder_out["encoder_out"][0].transpose(0, 1), padding[0] if padding else None
        )

        def perturbed(module: nn.Module, arguments: Any, embedded: Tensor) -> Tensor:
            # An incremental decoder embeds the last token alone.
            fed = prev_output_tokens[:, -embedded.size(1) :]
            return embedded + self.actor(embedded, source, fed.ne(self.padding_idx))

        # Dropout is the last operation on the embeddings before the first layer.
        with self.dropout_module.register_forward_hook(perturbed):
            return super().extract_features(prev_output_tokens, encoder_out, *args, **options)


@register_model("actor_transformer")
class ActorTransformerModel(ActorModel, TransformerModel):
    """fairseq's transformer with an actor at the decoder's input."""

    @classmethod
    def build_decoder(cls, args: Any, tgt_dict: Any, embed_tokens: Any) -> ActorTransformerDecoder:
        return ActorTransformerDecoder(
            args, tgt_dict, embed_tokens, no_encoder_attn=getattr(args, "no_cross_attention", False)
        )

    def actor_for(self, flags: ActorFlags) -> Actor:
        dim = self.cfg.decoder.embed_dim
        return Actor(dim, self.cfg.encoder.embed_dim, dim, flags)


@register_model_architecture("actor_transformer", "actor_transformer")
def actor_transformer(args: Any) -> None:
    """Sizes of ``--arch transformer``."""
    ActorFlags.set_defaults(args)
    base_architecture(args)


@register_model_architecture("actor_transformer", "actor_transformer_iwslt_de_en")
def actor_transformer_iwslt_de_en(args: Any) -> None:
    """Sizes of ``--arch transformer_iwslt_de_en``."""
    ActorFlags.set_defaults(args)
    transformer_iwslt_de_en(args)
