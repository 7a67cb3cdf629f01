"""Models for ``fairseq-train --arch NAME``; importing a module registers it."""

from fairseq_plugins.models import latent, stochastic_attention

__all__ = ["latent", "stochastic_attention"]
