"""Parts of ``--criterion expected_bleu``: flags, rows of either kind of model, objective."""
