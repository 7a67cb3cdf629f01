"""What ``--user-dir fairseq_plugins`` loads.

Importing the package registers its criterions and models, and makes fairseq checkpoints loadable.
"""

from fairseq_plugins.checkpoint_safety import allow_fairseq_checkpoints

allow_fairseq_checkpoints()

from fairseq_plugins import criterions, models  # noqa: E402  (a criterion may load a checkpoint)

__all__ = ["allow_fairseq_checkpoints", "criterions", "models"]
