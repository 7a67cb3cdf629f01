"""``--arch actor_transformer`` and ``actor_lstm``: trainable greedy decoding.

A small network, the actor, perturbs the input of a trained decoder whose own weights stay as they
are (Gu, Cho, Li 2017, arXiv 1702.02429).  See docs/actor.md.
"""

from fairseq_plugins.models.actor import lstm, transformer

__all__ = ["lstm", "transformer"]
