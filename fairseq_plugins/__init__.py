"""What ``--user-dir fairseq_plugins`` loads.

Importing the package registers its criterions and models, and makes fairseq checkpoints loadable.
"""

from fairseq_plugins.checkpoint_safety import allow_fairseq_checkpoints

allow_fairseq_checkpoints()

# After that, as a criterion may load a checkpoint. Importing a criterion registers it.
import fairseq_plugins.expected_bleu.criterion  # noqa: E402
import fairseq_plugins.stochastic_graph.criterion  # noqa: E402, F401
from fairseq_plugins import models  # noqa: E402

__all__ = ["allow_fairseq_checkpoints", "models"]
