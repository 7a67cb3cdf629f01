"""A fairseq sample as the objectives see it: right-padded, with a row for each sample drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from criterions.edit_distance_sampling import sample_edits
from fairseq_plugins.rows import Reference, reference_of
from fairseq_plugins.stochastic_graph.plan import columns_of
from fairseq_plugins.stochastic_graph.settings import Settings


@dataclass(frozen=True)
class Batch:
    """Sources ``[batch, ...]`` and what the decoder should say, ``[rows, ...]``.

    ``rows`` is ``batch * samples``, the samples of a source side by side.

    ``net_input``: the model's input, one row for each source.
    ``reference``: with ``</s>``, padding at the end, ``[rows, tgt_len]``.
    ``prev_output_tokens``: ``[rows, tgt_len]``, what a teacher-forced decoder is fed.
    ``samples``: rows for each source.
    """

    net_input: dict[str, Any]
    reference: Reference
    prev_output_tokens: Tensor
    samples: int

    @classmethod
    def of(cls, sample: dict[str, Any], dictionary: Dictionary) -> Batch:
        """One row for each source of a fairseq sample."""
        reference = reference_of(sample, dictionary)
        # Right-padded whatever side the sample has its padding on.
        fed = sample["net_input"]["prev_output_tokens"].gather(1, reference.order)
        net_input = {**sample["net_input"], "prev_output_tokens": fed}
        reference = replace(reference, order=columns_of(fed).expand_as(fed))
        return cls(net_input, reference, fed, 1)

    def repeated(self, samples: int) -> Batch:
        """``samples`` rows for each source in place of one."""
        if samples == self.samples:
            return self
        assert self.samples == 1

        def repeat(tensor: Tensor) -> Tensor:
            return tensor.repeat_interleave(samples, dim=0)

        reference = Reference(
            *(repeat(getattr(self.reference, name)) for name in self.reference.__annotations__)
        )
        return Batch(self.net_input, reference, repeat(self.prev_output_tokens), samples)

    @property
    def exists(self) -> Tensor:
        """``[rows, tgt_len]``: which columns hold a token of the reference."""
        return columns_of(self.reference.tokens) < self.reference.rows.unsqueeze(1)


def edited(batch: Batch, settings: Settings, dictionary: Dictionary, kept: int) -> Batch:
    """The batch with edited references as targets: RAML (Norouzi et al. 2016).

    Args:
        batch: with its rows repeated already; each gets edits of its own.
        settings: for the distance and the temperature.
        dictionary: for the vocabulary, of which special symbols are never drawn.
        kept: tokens at the start that stay as they are.
    """
    reference = batch.reference
    vocabulary = torch.arange(
        dictionary.nspecial, len(dictionary), device=reference.tokens.device, dtype=torch.long
    )
    words, lengths = sample_edits(
        reference.tokens[:, kept:],
        (reference.lengths - kept).clamp(min=0),
        vocabulary=vocabulary,
        # With V tokens to choose from, an edit of probability exp(-1 / t) has V forms.  In units of
        # 1 + log V the same temperature means about as many edits for every vocabulary.
        temperature=settings.raml_temperature / (1 + math.log(vocabulary.numel())),
        kind=settings.raml_distance,
    )
    head = reference.tokens[:, :kept]
    lengths = torch.where(reference.lengths < kept, reference.lengths, lengths + kept)
    rows = lengths + (reference.rows - reference.lengths)
    end = words.new_full((words.size(0), 1), dictionary.eos())
    tokens = torch.cat([head, words, end], dim=1)
    columns = columns_of(tokens)
    tokens = tokens.masked_fill(columns >= lengths.unsqueeze(1), dictionary.pad())
    tokens = tokens.masked_fill(columns == lengths.unsqueeze(1), dictionary.eos())
    fed = torch.cat([batch.prev_output_tokens[:, :1], tokens[:, :-1]], dim=1)
    order = columns.expand_as(tokens)
    return replace(batch, reference=Reference(tokens, lengths, rows, order), prev_output_tokens=fed)
