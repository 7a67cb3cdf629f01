"""The problems of the toy experiment: rows of logits without a model, and random references."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from criterions import (
    bleu,
    bleu_from_statistics,
    expected_statistics,
    monte_carlo_bleu,
    reference_probabilities,
)

SMOOTHING = "none"


@dataclass(frozen=True)
class Setting:
    """One version of the experiment.

    ``sentences`` per problem, ``vocab`` words, ``reference_lengths`` (shortest, longest) tokens
    drawn from ``reference_words`` words (None: the whole vocabulary), as many rows of logits as
    the reference has tokens; ``maximise`` the ``bound`` or its ``log``; ``literature``: final
    values of the authors' run for N = 1..4, if they published it.
    """

    name: str
    title: str
    sentences: int = 1
    vocab: int = 10_000
    reference_lengths: tuple[int, int] = (10, 10)
    reference_words: int | None = None
    maximise: str = "bound"
    literature: tuple[float, ...] | None = None


SETTINGS = (
    Setting(
        "single",
        "One sentence, 10,000 words, reference of ten tokens",
        literature=(1.0, 0.7071, 0.7757, 0.7260),
    ),
    Setting(
        "batched",
        "Two sentences, 20,000 words, references of 8 to 10 tokens, corpus level",
        sentences=2,
        vocab=20_000,
        reference_lengths=(8, 10),
    ),
    Setting(
        "log",
        "One sentence, the logarithm of the bound maximised instead of the bound",
        maximise="log",
    ),
    Setting(
        "repeated",
        "One sentence, reference of ten tokens out of three words",
        reference_words=3,
    ),
)


@dataclass(frozen=True)
class Problems:
    """Independent copies of a setting, one a seed, side by side in one tensor.

    ``logits`` [seeds * sentences, tgt_len, vocab], ``references`` [seeds * sentences, ref_len],
    ``lengths`` [seeds * sentences] of references and candidates alike.
    """

    logits: Tensor
    references: Tensor
    lengths: Tensor
    seeds: int

    def probabilities(self) -> Tensor:
        """``[seeds * sentences, tgt_len, ref_len]``, with gradient."""
        return reference_probabilities(self.logits, self.references)

    def scores(self, p_ref: Tensor, value: str, max_order: int) -> Tensor:
        """``[seeds]``: ``expected_bleu`` at corpus level of each seed's sentences."""
        statistics = expected_statistics(
            p_ref,
            self.references,
            value=value,
            max_order=max_order,
            lengths=self.lengths,
            reference_lengths=self.lengths,
        )
        by_seed = [item.unflatten(0, (self.seeds, -1)).sum(1) for item in statistics]
        return bleu_from_statistics(*by_seed, smoothing=SMOOTHING)

    def sampled_scores(
        self, p_ref: Tensor, max_order: int, samples: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """``[seeds]`` means and standard errors of BLEU of candidates drawn from the rows."""
        options = {
            "samples": samples,
            "max_order": max_order,
            "smoothing": SMOOTHING,
            "generator": generator,
        }
        if len(self.references) == self.seeds:  # a corpus of one sentence
            return monte_carlo_bleu(
                p_ref,
                self.references,
                lengths=self.lengths,
                reference_lengths=self.lengths,
                level="sentence",
                **options,
            )
        sampled = [
            monte_carlo_bleu(
                rows, references, lengths=lengths, reference_lengths=lengths, **options
            )
            for rows, references, lengths in self._by_seed(p_ref)
        ]
        means, errors = zip(*sampled, strict=True)
        return torch.stack(means), torch.stack(errors)

    def argmax_scores(self, max_order: int) -> Tensor:
        """``[seeds]``: BLEU of the most probable word of every row."""
        scores = [
            bleu(
                tokens,
                references,
                lengths=lengths,
                reference_lengths=lengths,
                max_order=max_order,
                smoothing=SMOOTHING,
            )
            for tokens, references, lengths in self._by_seed(self.logits.detach().argmax(-1))
        ]
        return torch.stack(scores)

    def _by_seed(self, candidates: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        tensors = (candidates, self.references, self.lengths)
        return zip(*(tensor.chunk(self.seeds) for tensor in tensors), strict=True)


def draw_problems(setting: Setting, seeds: int) -> Problems:
    """Logits from a standard normal law; reference lengths and tokens uniform."""
    shortest, longest = setting.reference_lengths
    logits, references, lengths = [], [], []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        shape = (setting.sentences, longest)
        if setting.reference_words is None:
            references.append(torch.randint(setting.vocab, shape, generator=generator))
        else:
            words = torch.randperm(setting.vocab, generator=generator)[: setting.reference_words]
            references.append(words[torch.randint(len(words), shape, generator=generator)])
        lengths.append(
            torch.randint(shortest, longest + 1, (setting.sentences,), generator=generator)
        )
        logits.append(torch.randn(*shape, setting.vocab, generator=generator))
    return Problems(
        torch.cat(logits).requires_grad_(), torch.cat(references), torch.cat(lengths), seeds
    )
