"""The objectives that are timed, each from logits to a scalar loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from torch import Tensor
from torch.nn import functional

from criterions import expected_bleu, reference_probabilities

PADDING, END = 1, 2  # fairseq's dictionary


@dataclass(frozen=True)
class Shape:
    """Sentences, rows per sentence (the reference's tokens and ``</s>``), words."""

    batch: int = 32
    tgt_len: int = 30
    vocab: int = 8_000

    def __str__(self) -> str:
        return f"{self.batch} x {self.tgt_len} x {self.vocab:,}"


@dataclass(frozen=True)
class Batch:
    """``logits`` [batch, tgt_len, vocab] with gradient, ``target`` [batch, tgt_len].

    The target ends with ``</s>`` and is padded; references are two thirds of the width or longer.
    """

    logits: Tensor
    target: Tensor

    @property
    def lengths(self) -> Tensor:
        """``[batch]``, rows of each sentence."""
        return (self.target != PADDING).sum(1)


def word_ids(shape: tuple[int, ...], vocab: int, generator: torch.Generator) -> Tensor:
    """Words by Zipf's law, so that n-grams repeat as often as in text."""
    frequencies = 1.0 / torch.arange(1, vocab - 3)
    numel = torch.Size(shape).numel()
    drawn = torch.multinomial(frequencies, numel, replacement=True, generator=generator)
    return 4 + drawn.view(shape)


def draw_batch(shape: Shape, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    """Normal logits and Zipf-distributed references; one sentence has the full width."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(
        2 * shape.tgt_len // 3, shape.tgt_len + 1, (shape.batch, 1), generator=generator
    )
    lengths[0] = shape.tgt_len
    position = torch.arange(shape.tgt_len)
    target = word_ids((shape.batch, shape.tgt_len), shape.vocab, generator)
    target = target.masked_fill(position == lengths - 1, END)
    target = target.masked_fill(position >= lengths, PADDING)
    logits = torch.randn(shape.batch, shape.tgt_len, shape.vocab, generator=generator)
    logits = logits.to(device=device, dtype=dtype).requires_grad_()
    return Batch(logits, target.to(device))


def cross_entropy(batch: Batch) -> Tensor:
    """PyTorch's own."""
    return functional.cross_entropy(
        batch.logits.flatten(0, 1).float(),
        batch.target.flatten(),
        ignore_index=PADDING,
        reduction="sum",
    )


def label_smoothed_cross_entropy(batch: Batch) -> Tensor:
    """fairseq's, from log-probabilities as its criterion takes them."""
    log_probabilities = functional.log_softmax(batch.logits, dim=-1, dtype=torch.float32)
    loss, _ = label_smoothed_nll_loss(
        log_probabilities.flatten(0, 1), batch.target.flatten(), 0.1, ignore_index=PADDING
    )
    return loss


def softmax_and_sum(batch: Batch) -> Tensor:
    """The floor of anything that makes probabilities of all words with autograd."""
    return functional.softmax(batch.logits, dim=-1, dtype=torch.float32).sum()


def bleu_objective(value: str, level: str) -> Callable[[Batch], Tensor]:
    """Expected BLEU with ``</s>`` probabilities, so the length is an expectation as well."""

    def loss(batch: Batch) -> Tensor:
        references = batch.target[:, :-1]
        wanted = torch.cat([references, references.new_full((len(references), 1), END)], dim=1)
        probabilities = reference_probabilities(batch.logits, wanted)
        score = expected_bleu(
            probabilities[..., :-1],
            references,
            value=value,
            level=level,
            lengths=batch.lengths,
            reference_lengths=batch.lengths - 1,
            eos_probabilities=probabilities[..., -1],
        )
        return -score.sum()

    return loss


BASELINE = "torch cross_entropy"
OBJECTIVES: dict[str, Callable[[Batch], Tensor]] = {
    BASELINE: cross_entropy,
    "fairseq label-smoothed": label_smoothed_cross_entropy,
    "softmax and sum": softmax_and_sum,
    **{
        f"expected_bleu {value}, {level}": bleu_objective(value, level)
        for level in ("corpus", "sentence")
        for value in ("paper", "exact", "lower", "upper")
    },
}


def forward_backward(name: str, batch: Batch) -> Callable[[], None]:
    """One evaluation of the loss and its gradient to the logits."""

    def run() -> None:
        batch.logits.grad = None
        OBJECTIVES[name](batch).backward()

    return run
