"""``--arch warm_started_nonautoregressive_transformer``."""

from __future__ import annotations

from typing import Any

from fairseq.models import register_model, register_model_architecture
from fairseq.models.nat import NATransformerModel
from fairseq.models.nat.nonautoregressive_transformer import base_architecture
from torch import Tensor

from fairseq_plugins.models.extending import adapt_state_dict, check_evaluated


@register_model("warm_started_nonautoregressive_transformer")
class WarmStartedNATransformerModel(NATransformerModel):
    """fairseq's ``nonautoregressive_transformer``, initialised from an autoregressive transformer.

    ``--finetune-from-model`` loads encoder, embeddings and decoder layers of a trained
    ``transformer`` of the same sizes; only the length predictor is initialised anew.
    """

    @classmethod
    def build_model(cls, args: Any, task: Any) -> Any:
        """As fairseq's; ``ValueError`` for a setting that it would run as code."""
        check_evaluated(args)
        return super().build_model(args, task)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Add the length predictor's parameters to a checkpoint that has none.

        Raises:
            ValueError: the checkpoint is of a transformer with ``--layernorm-embedding``, which
                fairseq's non-autoregressive decoder does not apply.
        """
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}.decoder." if name else "decoder."
        autoregressive = f"{prefix}embed_length.weight" not in state_dict
        if autoregressive and f"{prefix}layernorm_embedding.weight" in state_dict:
            raise ValueError(
                "the checkpoint is of a transformer with --layernorm-embedding, which fairseq's "
                "non-autoregressive decoders do not apply; take one that was trained without"
            )
        adapt_state_dict(self, state_dict, name, ("decoder.embed_length.",))


@register_model_architecture(
    "warm_started_nonautoregressive_transformer", "warm_started_nonautoregressive_transformer"
)
def warm_started_nonautoregressive_transformer(args: Any) -> None:
    """Sizes of fairseq's ``nonautoregressive_transformer``, which are those of ``transformer``."""
    base_architecture(args)
