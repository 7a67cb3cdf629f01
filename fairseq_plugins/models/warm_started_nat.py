"""``--arch warm_started_nonautoregressive_transformer``."""

from __future__ import annotations

import logging
from typing import Any

from fairseq.models import register_model, register_model_architecture
from fairseq.models.nat import NATransformerModel
from fairseq.models.nat.nonautoregressive_transformer import base_architecture
from torch import Tensor

logger = logging.getLogger(__name__)

_LENGTHS = "decoder.embed_length."
_NORMALISED_EMBEDDINGS = "decoder.layernorm_embedding."


@register_model("warm_started_nonautoregressive_transformer")
class WarmStartedNATransformerModel(NATransformerModel):
    """fairseq's ``nonautoregressive_transformer``, which also loads an autoregressive transformer.

    Encoder, embeddings and decoder layers are those of a trained ``transformer`` of the same sizes
    (``--finetune-from-model``); only the prediction of the length starts anew.  The layers have
    to learn that their input no longer is the translation so far, and to look to both sides; what
    the words mean, and how the source is read, they know.
    """

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Give a checkpoint that predicts no length the parameters that do so, as they are.

        Raises:
            ValueError: it is of a transformer with ``--layernorm-embedding``, whose layer would
                load, but which fairseq's non-autoregressive decoder does not apply.
        """
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        if any(key.startswith(prefix + _LENGTHS) for key in state_dict):
            return
        if any(key.startswith(prefix + _NORMALISED_EMBEDDINGS) for key in state_dict):
            raise ValueError(
                "the checkpoint is of a transformer with --layernorm-embedding, which fairseq's "
                "non-autoregressive decoders do not apply; take one that was trained without"
            )
        logger.info("the checkpoint predicts no length: %s starts anew", _LENGTHS.rstrip("."))
        for key, value in self.state_dict().items():
            if key.startswith(_LENGTHS):
                state_dict[prefix + key] = value.clone()


@register_model_architecture(
    "warm_started_nonautoregressive_transformer", "warm_started_nonautoregressive_transformer"
)
def warm_started_nonautoregressive_transformer(args: Any) -> None:
    """Sizes of fairseq's ``nonautoregressive_transformer``, which are those of ``transformer``."""
    base_architecture(args)
