"""Sequence-level objectives for translation models, in PyTorch alone.

Nothing here knows of fairseq: every function takes and returns tensors.
"""

from criterions.bleu.counted import (
    bleu,
    clipped_overlap,
    counted_statistics,
    gleu,
    gleu_from_statistics,
    increments,
    prefix_statistics,
)
from criterions.bleu.expected import expected_bleu, expected_overlap, expected_statistics
from criterions.bleu.monte_carlo import monte_carlo_bleu, monte_carlo_overlap, sample_candidates
from criterions.bleu.statistics import BleuStatistics, bleu_from_statistics
from criterions.candidate_losses import (
    CANDIDATE_LOSSES,
    effective_sample_size,
    first_occurrences,
    max_margin,
    minimum_risk,
    multi_margin,
    sequence_nll,
    softmax_margin,
    unique_samples,
)
from criterions.edit_distance_sampling import sample_edits
from criterions.reward_shaping import clip_rewards, normalize_rewards
from criterions.token_categorical import (
    TokenCategorical,
    reference_probabilities,
    token_log_probabilities,
)

TokenLaw = TokenCategorical  # its former name

__all__ = [
    "CANDIDATE_LOSSES",
    "BleuStatistics",
    "TokenCategorical",
    "TokenLaw",
    "bleu",
    "bleu_from_statistics",
    "clip_rewards",
    "clipped_overlap",
    "counted_statistics",
    "effective_sample_size",
    "expected_bleu",
    "expected_overlap",
    "expected_statistics",
    "first_occurrences",
    "gleu",
    "gleu_from_statistics",
    "increments",
    "max_margin",
    "minimum_risk",
    "monte_carlo_bleu",
    "monte_carlo_overlap",
    "multi_margin",
    "normalize_rewards",
    "prefix_statistics",
    "reference_probabilities",
    "sample_candidates",
    "sample_edits",
    "sequence_nll",
    "softmax_margin",
    "token_log_probabilities",
    "unique_samples",
]
