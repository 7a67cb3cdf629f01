"""``--estimator`` of tokens that were drawn: estimators with a score term, built from a baseline.

``none``, ``pathwise``, ``straight_through`` and ``candidate_set`` are no nodes of drawn tokens.
"""

from criterions.registry import Registry
from criterions.stochastic_graph import Estimator, ScoreFunction

TOKEN_ESTIMATORS: Registry[Estimator] = Registry("--estimator", Estimator)  # type: ignore[type-abstract]
TOKEN_ESTIMATORS.register("score_function")(ScoreFunction)
