"""Encoder-decoder models whose attention is a choice: importing it registers them."""

from fairseq_plugins.models.stochastic_attention import lstm, transformer

__all__ = ["lstm", "transformer"]
