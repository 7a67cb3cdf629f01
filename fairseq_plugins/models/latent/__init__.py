"""``--arch latent_transformer``: a transformer with a latent variable of the whole sentence."""

from fairseq_plugins.models.latent.transformer import LatentTransformerModel

__all__ = ["LatentTransformerModel"]
