"""``--arch actor_transformer`` and ``actor_lstm``: trainable greedy decoding.

A small network, the actor, perturbs the decoder's input of a trained model whose weights stay as
they are (Gu, Cho, Li 2017, arXiv 1702.02429).  See docs/actor.md.
"""
