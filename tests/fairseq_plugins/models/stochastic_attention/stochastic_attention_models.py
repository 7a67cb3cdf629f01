"""Tiny models with stochastic attention, and the same by other means: forced positions.

The forced attentions stand in fairseq's own ``lstm`` and ``transformer``; they share nothing with
the plugin's models but the weights.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from torch import Tensor, nn

import fairseq_plugins  # noqa: F401  (registers the models)

BOS, PAD, EOS, UNK, WORD, OTHER = range(6)
ARCHITECTURES = ("lstm", "transformer")
LAYERS, HEADS = 2, 2

SIZES: dict[str, dict[str, Any]] = {
    "lstm": {
        "encoder_embed_dim": 6,
        "encoder_hidden_size": 5,
        "encoder_bidirectional": True,
        "decoder_embed_dim": 6,
        "decoder_hidden_size": 4,
        "decoder_out_embed_dim": 5,
    },
    "transformer": {
        "encoder_embed_dim": 8,
        "decoder_embed_dim": 8,
        "encoder_ffn_embed_dim": 6,
        "decoder_ffn_embed_dim": 6,
        "encoder_layers": 1,
        "decoder_layers": LAYERS,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
    },
}
LAST_LAYER = {
    "lstm": {},
    "transformer": {"attention_in_layers": str(LAYERS - 1), "attention_in_heads": "1"},
}
"""Where ``exact`` may be."""


def dictionary() -> Dictionary:
    made = Dictionary()
    for word in ("word", "other"):
        made.add_symbol(word)
    return made


def build_preset(arch: str, **options: Any) -> Any:
    """A model with the options that the architecture gives to it, but for ``options``."""
    args = argparse.Namespace(**{"arch": arch, "criterion": "cross_entropy", **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    words = dictionary()
    task = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task)


def build(arch: str, **options: Any) -> Any:
    """A model by its architecture's name, of 64 bits, with seeded weights and no dropout."""
    torch.manual_seed(3)
    sizes = SIZES[arch.rsplit("_", 1)[-1]]
    model = build_preset(arch, **{"dropout": 0.0, **sizes, **options}).double()
    # Initial values are so small that all positions are about as probable.
    for parameter in model.parameters():
        parameter.data.mul_(4 if arch.endswith("lstm") else 1.5)
    return model


def build_stochastic(arch: str, kind: str, **options: Any) -> Any:
    """``stochastic_attention_*``; of ``exact``, with the one head that it may have."""
    exact = "exact" in (kind, options.get("attention_in_evaluation"))
    where = LAST_LAYER[arch] if exact else {}
    return build(f"stochastic_attention_{arch}", attention=kind, **where, **options)


@dataclass(frozen=True)
class Batch:
    """Two sentences of different lengths on both sides, each of them once or several times."""

    src_tokens: Tensor
    src_lengths: Tensor
    prev_output_tokens: Tensor
    target: Tensor

    @property
    def net_input(self) -> dict[str, Tensor]:
        return {
            "src_tokens": self.src_tokens,
            "src_lengths": self.src_lengths,
            "prev_output_tokens": self.prev_output_tokens,
        }

    def rows(self, index: Tensor) -> Batch:
        return Batch(*(tensor[index] for tensor in vars(self).values()))


def sentences() -> Batch:
    """Padding as fairseq has it: left in the source, right in the target."""
    return Batch(
        torch.tensor([[WORD, OTHER, EOS], [PAD, OTHER, EOS]]),
        torch.tensor([3, 2]),
        torch.tensor([[EOS, PAD], [EOS, OTHER]]),
        torch.tensor([[EOS, PAD], [OTHER, EOS]]),
    )


def token_losses(logits: Tensor, batch: Batch) -> Tensor:
    """``[rows, time]`` cross-entropy in nats, 0 at padding."""
    picked = logits.log_softmax(-1).gather(-1, batch.target.unsqueeze(-1)).squeeze(-1)
    return -picked.masked_fill(batch.target.eq(PAD), 0)


def alignments(arch: str, choices: int) -> tuple[Batch, Tensor]:
    """All that could be drawn: for each row of the batch, a position for every choice.

    Args:
        arch: fairseq's LSTM pads its memory on the right.
        choices: at every target step.

    Returns:
        sentences, repeated; positions ``[rows, time, choices]``, arbitrary past a target's end.
    """
    both = sentences()
    rows: list[int] = []
    found = []
    for sentence, steps in enumerate((1, 2)):
        real = [0, 1] if arch == "lstm" else [1, 2]
        positions = (range(3), real)[sentence]
        for drawn in itertools.product(positions, repeat=steps * choices):
            rows.append(sentence)
            padded = [*drawn, *[positions[0]] * ((2 - steps) * choices)]
            found.append(torch.tensor(padded).view(2, choices))
    return both.rows(torch.tensor(rows)), torch.stack(found)


class ForcedLSTMAttention(nn.Module):
    """fairseq's ``AttentionLayer`` in 64 bits: soft, or at the given positions."""

    def __init__(self, plain: nn.Module, positions: Tensor | None) -> None:
        super().__init__()
        self.plain, self.positions = plain, positions
        self.inputs: list[Tensor] = []
        self.probabilities: list[Tensor] = []
        """``[rows, src_len]`` for each step."""

    def forward(self, input: Tensor, source_hids: Tensor, padding: Tensor) -> Any:
        scores = torch.einsum("sbd,bd->bs", source_hids, self.plain.input_proj(input))
        probabilities = scores.masked_fill(padding.t(), -torch.inf).softmax(1)
        if self.positions is None:
            context = torch.einsum("bs,sbd->bd", probabilities, source_hids)
        else:
            position = self.positions[:, len(self.inputs), 0]
            context = source_hids[position, torch.arange(len(position))]
        self.inputs.append(input)
        self.probabilities.append(probabilities)
        return self.output(context, input), probabilities.t()

    def output(self, context: Tensor, input: Tensor) -> Tensor:
        return torch.tanh(self.plain.output_proj(torch.cat([context, input], 1)))


class ForcedCrossAttention(nn.Module):
    """fairseq's ``MultiheadAttention`` in 64 bits, some heads at the given positions.

    ``positions``: ``{head: [rows, time]}``.
    """

    def __init__(self, plain: Any, positions: dict[int, Tensor]) -> None:
        super().__init__()
        self.plain, self.positions = plain, positions
        self.probabilities: dict[int, Tensor] = {}
        """``[rows, time, src_len]`` for each head."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **others: Any) -> Any:
        plain, padding = self.plain, others["key_padding_mask"]
        size = plain.head_dim
        heads = []
        for head in range(plain.num_heads):
            of_head = slice(head * size, (head + 1) * size)
            q = plain.q_proj(query)[:, :, of_head] * size**-0.5
            k, v = plain.k_proj(key)[:, :, of_head], plain.v_proj(value)[:, :, of_head]
            scores = torch.einsum("tbd,sbd->bts", q, k)
            scores = scores.masked_fill(padding.unsqueeze(1), -torch.inf)
            weights = self.probabilities[head] = scores.softmax(2)
            if head in self.positions:
                weights = nn.functional.one_hot(self.positions[head], scores.size(2)).double()
            heads.append(torch.einsum("bts,sbd->tbd", weights, v))
        return plain.out_proj(torch.cat(heads, 2)), None


def forced(
    arch: str, batch: Batch, positions: Tensor, heads: Sequence[int] = range(HEADS)
) -> tuple[Any, Tensor, Tensor]:
    """fairseq's own model, made to look at the given positions.

    Args:
        arch: of the model.
        batch: padding of its target does not count.
        positions: ``[rows, time, choices]``; in the transformer the same heads of all layers.
        heads: which these are.

    Returns:
        the model, the probability of the positions ``[rows]``, and logits.
    """
    model = build(arch).train()
    exists = batch.target.ne(PAD)
    if arch == "lstm":
        attention = model.decoder.attention = ForcedLSTMAttention(
            model.decoder.attention, positions
        )
        logits = model(**batch.net_input)[0]
        probabilities = torch.stack(attention.probabilities, 1).unsqueeze(2)
    else:
        attentions = []
        for number, layer in enumerate(model.decoder.layers):
            of_layer = positions[:, :, number * len(heads) : (number + 1) * len(heads)]
            of_heads = dict(zip(heads, of_layer.unbind(2), strict=True))
            layer.encoder_attn = ForcedCrossAttention(layer.encoder_attn, of_heads)
            attentions.append(layer.encoder_attn)
        logits = model(**batch.net_input)[0]
        found = [a.probabilities[head] for a in attentions for head in heads]
        probabilities = torch.stack(found, 2)
    chosen = probabilities.gather(-1, positions.unsqueeze(-1)).squeeze(-1)
    chosen = torch.where(exists.unsqueeze(-1), chosen, torch.ones_like(chosen))
    return model, chosen.flatten(1).prod(1), logits


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """By the names that parameters have in fairseq's models; 0 where there is none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name.replace("attn.plain.", "attn.").replace("attention.plain.", "attention."): (
            torch.zeros_like(p) if g is None else g
        )
        for name, p, g in zip(names, parameters, found, strict=True)
    }


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same gradients, which must not be 0 all over."""
    assert sum(float(g.norm()) for g in expected.values()) > 1e-2
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)
