"""Sequence-level objectives for translation models, in PyTorch alone.

Nothing here knows of fairseq: every function takes and returns tensors.
"""

from criterions.bleu_statistics import BleuStatistics, bleu_from_statistics
from criterions.counted_bleu import bleu, clipped_overlap, counted_statistics
from criterions.expected_bleu import expected_bleu, expected_statistics
from criterions.expected_overlap import expected_overlap
from criterions.monte_carlo import monte_carlo_bleu, monte_carlo_overlap, sample_candidates
from criterions.token_probabilities import reference_probabilities, token_log_probabilities

__all__ = [
    "BleuStatistics",
    "bleu",
    "bleu_from_statistics",
    "clipped_overlap",
    "counted_statistics",
    "expected_bleu",
    "expected_overlap",
    "expected_statistics",
    "monte_carlo_bleu",
    "monte_carlo_overlap",
    "reference_probabilities",
    "sample_candidates",
    "token_log_probabilities",
]
