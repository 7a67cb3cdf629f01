"""Expected BLEU from logits to their gradient, beside cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from torch import Tensor
from torch.nn import functional

from benchmarks import peak_memory
from benchmarks.report import TIMING, Section, Sizes, Table, timing_cells
from benchmarks.timing import interleaved
from benchmarks.training_step import END, PADDING, devices, draw_sample
from criterions import expected_bleu, reference_probabilities

SIZES = Sizes(batch=32, length=30, vocab=8_000, rounds=60)


@dataclass(frozen=True)
class Batch:
    """``logits`` [batch, tgt_len, vocab] with gradient, ``target`` [batch, tgt_len].

    The target ends with ``</s>`` and is padded.
    """

    logits: Tensor
    target: Tensor

    @property
    def lengths(self) -> Tensor:
        """``[batch]``, rows of each sentence."""
        return (self.target != PADDING).sum(1)


def draw_batch(sizes: Sizes, device: torch.device) -> Batch:
    """Normal logits and Zipf-distributed references; one sentence has the full width."""
    target = draw_sample(sizes)["target"].to(device)
    logits = torch.randn(*target.shape, sizes.vocab, generator=torch.Generator().manual_seed(0))
    return Batch(logits.to(device).requires_grad_(), target)


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


TEXT = """\
From logits to a scalar and back to the gradient of the logits. `softmax and sum` is the floor of
what makes the probabilities of all words with autograd. **Peak memory** is what one call needs at
most over the logits, their gradient included, in multiples of the logits' size: the growth of the
resident set of a fresh process on a CPU, PyTorch's own count on an accelerator. Words follow
Zipf's law; a reference has two thirds of the positions or more.
"""


def build(name: str, sizes: Sizes) -> Callable[[], None]:
    """For a fresh process: a first call on a small batch loads what is loaded on first use."""
    forward_backward(name, draw_batch(Sizes(2, 6, 50, 0), torch.device("cpu")))()
    return forward_backward(name, draw_batch(sizes, torch.device("cpu")))


def peak_in_logits(name: str, sizes: Sizes, device: torch.device) -> float:
    """Peak memory over the logits, in multiples of the logits' own size."""
    if device.type == "cpu":
        peak = peak_memory.on_cpu(partial(build, name, sizes))
    else:
        function = forward_backward(name, draw_batch(sizes, device))
        function()
        peak = peak_memory.on_cuda(function)
    return peak / (4 * sizes.batch * sizes.length * sizes.vocab)


def measure(sizes: Sizes) -> Section:
    tables = []
    for device in devices():
        batch = draw_batch(sizes, device)
        functions = {name: forward_backward(name, batch) for name in OBJECTIVES}
        timings = interleaved(functions, baseline=BASELINE, rounds=sizes.rounds, device=device)
        peaks = {name: peak_in_logits(name, sizes, device) for name in OBJECTIVES}
        tables.append(
            Table(
                f"Logits {sizes.batch} x {sizes.length} x {sizes.vocab:,}, {device.type}",
                ["objective", *TIMING, "peak memory"],
                [[name, *timing_cells(timings[name]), f"{peaks[name]:.2f}"] for name in OBJECTIVES],
                {name: {**asdict(timings[name]), "memory": peaks[name]} for name in OBJECTIVES},
            )
        )
    return Section("What expected BLEU costs, from logits to gradient", TEXT, tables, sizes.rounds)
