"""What ``--user-dir fairseq_plugins`` loads."""

from fairseq_plugins.checkpoint_safety import allow_fairseq_checkpoints

allow_fairseq_checkpoints()
