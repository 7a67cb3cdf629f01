"""Where models of one's own find :func:`reference_prefix`; see docs/latent_variables.md."""

from fairseq_plugins.model_pass import reference_prefix

__all__ = ["reference_prefix"]
