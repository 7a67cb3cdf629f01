"""Random sentences, as the oracles and as the objectives want them.

Token ids: words are ``0 .. words - 1``, then ``OTHER`` (a word that no reference holds), then
``</s>`` when the sentence may end early. The padding of a batch is filled with words (and -1) and
probabilities like any other, so a function that looks at padding gets a different number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st


@dataclass(frozen=True)
class Sentence:
    """``rows`` [tgt_len, vocab], ``reference`` token ids, ``eos`` its id or None."""

    rows: np.ndarray
    reference: tuple[int, ...]
    eos: int | None

    def expect(self, oracle: Callable[..., float], *args: object) -> float:
        """Call an oracle of the form ``oracle(rows, eos, reference, ...)``."""
        return oracle(self.rows, self.eos, self.reference, *args)


def random_rows(
    rng: np.random.Generator, tgt_len: int, vocab: int, sharpness: float = 1.0
) -> np.ndarray:
    """Softmax of normal logits; a large ``sharpness`` gives rows close to one-hot."""
    logits = sharpness * rng.standard_normal((tgt_len, vocab))
    rows = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return rows / rows.sum(axis=1, keepdims=True)


def random_sentence(
    rng: np.random.Generator,
    tgt_len: int,
    reference: Sequence[int],
    *,
    words: int = 3,
    ends: bool = False,
    sharpness: float = 1.0,
) -> Sentence:
    """A sentence over ``words`` words and OTHER, with ``</s>`` probabilities if ``ends``."""
    rows = random_rows(rng, tgt_len, words + 1 + ends, sharpness)
    return Sentence(rows, tuple(reference), words + 1 if ends else None)


def arguments(
    sentences: Sequence[Sentence],
    *,
    extra_rows: int = 0,
    extra_columns: int = 0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, torch.Tensor | None]:
    """Keyword arguments of ``expected_overlap`` and its kin for a padded batch.

    ``p_ref`` [batch, tgt_len, ref_len], ``references`` [batch, ref_len], ``lengths`` [batch],
    ``reference_lengths`` [batch] and ``eos_probabilities`` [batch, tgt_len] or None.
    """
    rng = np.random.default_rng(seed)
    lengths = [len(sentence.rows) for sentence in sentences]
    reference_lengths = [len(sentence.reference) for sentence in sentences]
    batch, vocab = len(sentences), sentences[0].rows.shape[1]
    tgt_len = max(lengths) + extra_rows
    ref_len = max(reference_lengths) + extra_columns
    rows = np.stack([random_rows(rng, tgt_len, vocab) for _ in sentences])
    references = rng.integers(-1, vocab, (batch, ref_len))
    p_ref = rng.random((batch, tgt_len, ref_len))
    for b, sentence in enumerate(sentences):
        rows[b, : lengths[b]] = sentence.rows
        references[b, : reference_lengths[b]] = sentence.reference
        # Only the padded columns keep their unrelated numbers: elsewhere p_ref[i, j] = p[i, y_j].
        kept = slice(0, reference_lengths[b])
        p_ref[b, :, kept] = rows[b][:, references[b, kept]]
    eos = sentences[0].eos
    return {
        "p_ref": torch.tensor(p_ref, dtype=dtype),
        "references": torch.tensor(references),
        "lengths": torch.tensor(lengths),
        "reference_lengths": torch.tensor(reference_lengths),
        "eos_probabilities": None if eos is None else torch.tensor(rows[:, :, eos], dtype=dtype),
    }


def one_hot_sentence(hypothesis: Sequence[int], reference: Sequence[int], words: int) -> Sentence:
    """Rows that say ``hypothesis`` with certainty."""
    rows = np.zeros((len(hypothesis), words + 1))
    rows[np.arange(len(hypothesis)), list(hypothesis)] = 1.0
    return Sentence(rows, tuple(reference), None)


@st.composite
def sentences(
    draw: st.DrawFn,
    max_tgt_len: int = 5,
    max_ref_len: int = 6,
    ends: bool | None = None,
    max_words: int = 3,
) -> Sentence:
    """Sentences small enough to enumerate: few words, so n-grams repeat and overlap themselves."""
    words = draw(st.integers(1, max_words))
    reference = draw(st.lists(st.integers(0, words - 1), max_size=max_ref_len))
    tgt_len = draw(st.integers(0, max_tgt_len))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sharpness = draw(st.sampled_from([0.3, 1.0, 4.0, 30.0]))
    if ends is None:
        ends = draw(st.booleans())
    sentence = random_sentence(rng, tgt_len, reference, words=words, ends=ends, sharpness=sharpness)
    # OTHER takes mass by itself; without it the words of the reference share all of it.
    if draw(st.booleans()) and tgt_len:
        rows = sentence.rows.copy()
        rows[:, words] = 0.0
        rows /= rows.sum(axis=1, keepdims=True)
        sentence = Sentence(rows, sentence.reference, sentence.eos)
    return sentence
