"""RAML: edits of the references as targets of the cross-entropy (Norouzi et al. 2016)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from fairseq.data import Dictionary

from criterions.edit_distance_sampling import sample_edits
from fairseq_plugins.batch import Batch, Reference, columns_of


def edited(batch: Batch, dictionary: Dictionary, *, kind: str, temperature: float) -> Batch:
    """The batch with edited references as targets: RAML (Norouzi et al. 2016).

    Args:
        batch: with its rows repeated already; each gets edits of its own.
        dictionary: for the vocabulary, of which special symbols are never drawn.
        kind, temperature: of the edits; the temperature in units of ``1 + log(vocabulary)``.
    """
    reference, size = batch.reference, batch.prefix_size
    vocabulary = torch.arange(
        dictionary.nspecial, len(dictionary), device=reference.tokens.device, dtype=torch.long
    )
    words, lengths = sample_edits(
        reference.tokens[:, size:],
        batch.size_after_prefix(reference.lengths),
        vocabulary=vocabulary,
        # With V tokens to choose from, an edit of probability exp(-1 / t) has V forms.  In units of
        # 1 + log V the same temperature means about as many edits for every vocabulary.
        temperature=temperature / (1 + math.log(vocabulary.numel())),
        kind=kind,
    )
    lengths = torch.where(reference.lengths < size, reference.lengths, lengths + size)
    ended = reference.num_tokens - reference.lengths
    end = words.new_full((words.size(0), 1), dictionary.eos())
    tokens = torch.cat([reference.tokens[:, :size], words, end], dim=1)
    columns = columns_of(tokens)
    tokens = tokens.masked_fill(columns >= lengths.unsqueeze(1), dictionary.pad())
    tokens = tokens.masked_fill(columns == lengths.unsqueeze(1), dictionary.eos())
    reference = Reference(tokens, lengths, lengths + ended)
    return replace(batch, reference=reference, prev_output_tokens=batch.fed_for(tokens))
