"""Models for ``fairseq-train --arch NAME``; importing a module registers it."""

from fairseq_plugins.models import latent

__all__ = ["latent"]
