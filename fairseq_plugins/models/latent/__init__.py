"""``--arch latent_transformer``: a transformer with a latent variable for each sentence."""

from fairseq_plugins.models.latent.latent_transformer import LatentTransformerModel

__all__ = ["LatentTransformerModel"]
