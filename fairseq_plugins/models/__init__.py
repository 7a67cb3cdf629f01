"""Models for ``fairseq-train --arch NAME``; importing a module registers it."""

from fairseq_plugins.models import actor, latent, stochastic_attention, warm_started_nat

__all__ = ["actor", "latent", "stochastic_attention", "warm_started_nat"]
