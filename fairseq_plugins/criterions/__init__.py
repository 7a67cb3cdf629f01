"""Criterions for ``fairseq-train --criterion NAME``; importing a module registers it."""

from fairseq_plugins.expected_bleu import criterion as expected_bleu
from fairseq_plugins.stochastic_graph import criterion as stochastic_graph

__all__ = ["expected_bleu", "stochastic_graph"]
