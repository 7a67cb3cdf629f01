"""``--cost``: what is minimised.  Importing a file of this folder registers its cost."""

from fairseq_plugins.stochastic_graph.costs import (  # noqa: F401
    cross_entropy_cost,
    expected_bleu_cost,
    reward_cost,
)
from fairseq_plugins.stochastic_graph.costs.cost import COSTS, Cost, Logs

__all__ = ["COSTS", "Cost", "Logs"]
