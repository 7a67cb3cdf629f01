"""Models for ``fairseq-train --arch NAME``; importing a module registers it."""

from fairseq_plugins.models import warm_started_nat
from fairseq_plugins.models.actor import actor_lstm, actor_transformer
from fairseq_plugins.models.latent import latent_transformer
from fairseq_plugins.models.stochastic_attention import (
    stochastic_attention_lstm,
    stochastic_attention_transformer,
)

__all__ = [
    "actor_lstm",
    "actor_transformer",
    "latent_transformer",
    "stochastic_attention_lstm",
    "stochastic_attention_transformer",
    "warm_started_nat",
]
