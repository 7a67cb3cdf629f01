"""Parts of ``--criterion expected_bleu``: flags, statistics of either kind of model, objective."""
