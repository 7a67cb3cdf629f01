"""Criterions for ``fairseq-train --criterion NAME``; importing a module registers it."""

from fairseq_plugins.criterions import expected_bleu, stochastic_graph

__all__ = ["expected_bleu", "stochastic_graph"]
