"""The decoder's tokens as nodes of the graph, and outputs that no decoder was fed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fairseq.data import Dictionary
from torch import Tensor

from criterions.stochastic_graph import Estimator, StochasticGraph
from criterions.token_law import TokenLaw
from fairseq_plugins.decoding import policy_logits
from fairseq_plugins.stochastic_graph.batch import Batch
from fairseq_plugins.stochastic_graph.plan import Plan, columns_of


@dataclass(frozen=True)
class TokenNodes:
    """The law of the decoder's tokens.

    ``dictionary``: of the target language.
    ``temperature``: of sampling, and so of the law whose gradient is estimated.
    ``estimator``: of the nodes.
    ``kept``: tokens at the start of every output that are the reference's.
    """

    dictionary: Dictionary
    temperature: float
    estimator: Estimator
    kept: int

    def law(self, logits: Tensor) -> TokenLaw:
        """What decoding draws from, for all steps of a pass ``[rows, length, vocab]`` at once."""
        return TokenLaw(
            policy_logits(
                logits,
                eos=self.dictionary.eos(),
                pad=self.dictionary.pad(),
                temperature=self.temperature,
            )
        )

    def record(
        self, graph: StochasticGraph, name: str, law: TokenLaw, tokens: Tensor, mask: Tensor
    ) -> None:
        """Record tokens that were drawn before the pass that gives their law.

        Args:
            graph: the active graph.
            name: of the node.
            law: of batch shape ``[rows, length]``.
            tokens: ``[rows, length]``.
            mask: bool, of the same shape, True for tokens that were drawn.
        """
        graph.sample(name, law, estimator=self.estimator, mask=mask, value=tokens)

    @torch.no_grad()
    def emitted_from(self, law: TokenLaw, batch: Batch, *, greedy: bool = False) -> Plan:
        """Draw a token from every row, up to ``</s>``, of which none is fed.

        An output has as many tokens as the reference, ``</s>`` included, at most.

        Args:
            law: of batch shape ``[rows, length]``.
            batch: with the references.
            greedy: take the most probable token instead.
        """
        tokens = law.mode if greedy else law.sample()
        columns = columns_of(tokens)
        start = batch.reference.tokens[:, : self.kept]
        tokens = torch.cat([start, tokens[:, start.size(1) :]], dim=1)
        words = tokens.ne(self.dictionary.eos()) & batch.exists
        lengths = words.long().cumprod(1).sum(1)
        number = torch.minimum(lengths + 1, batch.reference.rows)
        exists = columns < number.unsqueeze(1)
        tokens = tokens.masked_fill(~exists, self.dictionary.pad())
        return Plan(
            batch.prev_output_tokens, tokens, exists & (columns >= self.kept), number, lengths
        )
