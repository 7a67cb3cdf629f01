"""Criterions for ``fairseq-train --criterion NAME``; importing a module registers it."""

from fairseq_plugins.criterions import stochastic_graph
from fairseq_plugins.expected_bleu import criterion as expected_bleu

__all__ = ["expected_bleu", "stochastic_graph"]
