"""Encoder-decoder models whose attention to the source may sample positions."""

from fairseq_plugins.models.stochastic_attention import (
    stochastic_attention_lstm,
    stochastic_attention_transformer,
)

__all__ = ["stochastic_attention_lstm", "stochastic_attention_transformer"]
