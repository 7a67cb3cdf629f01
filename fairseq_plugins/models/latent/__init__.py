"""``--arch latent_transformer``: a transformer with a latent variable for each sentence."""
