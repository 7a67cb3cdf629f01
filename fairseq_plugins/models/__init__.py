"""Models for ``fairseq-train --arch NAME``; importing a module registers it."""

from fairseq_plugins.models import stochastic_attention

__all__ = ["stochastic_attention"]
