"""``--estimator candidate_set``: a loss over the set of a source's outputs."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from criterions.candidate_losses import (
    CANDIDATE_LOSSES,
    effective_sample_size,
    first_occurrences,
)
from fairseq_plugins.stochastic_graph.config import Settings
from fairseq_plugins.stochastic_graph.rollout import Rollout
from fairseq_plugins.stochastic_graph.scored_pass import ScoredPass


def record_candidates(
    done: ScoredPass,
    distribution: Distribution,
    rollout: Rollout,
    costs: Tensor,
    settings: Settings,
) -> Tensor:
    """Add the loss of each source's candidates to the graph.

    A layer's outcome for one candidate has part in the loss of the whole set, which is the cost of
    each of its rows: with a score function, every score term would be too small by the size of the
    set.

    Args:
        done: the pass with gradient.
        distribution: of the tokens, of batch shape ``[rows, length]``.
        rollout: the candidates, those of a source side by side.
        costs: ``[rows]``.
        settings: the objective.

    Returns:
        the effective sample size, summed over the sources.

    Raises:
        ValueError: a layer of the model has a score term.
    """
    for node in done.layers:
        if node.log_prob is not None:
            raise ValueError(
                f"--estimator candidate_set does not go with the score function of {node}: use "
                "--layer-estimator straight_through, none, expectation or mode, or --estimator "
                "score_function"
            )
    samples = rollout.batch.samples

    def grouped(rows: Tensor) -> Tensor:
        return rows.reshape(-1, samples, *rows.shape[1:])

    mask = rollout.action_mask
    log_probs = grouped(distribution.log_prob(rollout.tokens).masked_fill(~mask, 0).sum(1))
    # Of the same candidates the first counts; </s> distinguishes an output from a cut one.
    different = first_occurrences(grouped(rollout.tokens), grouped(rollout.num_tokens))
    # An empty reference has no probability: decoding never ends before the first token.
    different = different & log_probs.detach().isfinite()
    loss_of = CANDIDATE_LOSSES[settings.candidate_loss]
    if settings.candidate_loss == "risk":
        alpha = settings.candidate_sharpness
        loss = loss_of(log_probs, grouped(costs), alpha=alpha, mask=different)
    else:
        # The other losses compare scores of outputs of different lengths.
        alpha, lengths = 1.0, grouped(mask.sum(1)).clamp(min=1)
        loss = loss_of(log_probs, grouped(costs), mask=different, lengths=lengths)
        log_probs = log_probs / lengths
    done.graph.cost(f"candidate_{settings.candidate_loss}", loss.repeat_interleave(samples))
    return effective_sample_size(alpha * log_probs.detach(), different).sum()
