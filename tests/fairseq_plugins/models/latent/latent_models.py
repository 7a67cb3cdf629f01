"""Latent transformers of a few parameters, of the flags alone: no corpus."""

from __future__ import annotations

import math
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq_setup import graph_criterion, sample_of
from torch import Tensor

from criterions.stochastic_graph import Baseline
from fairseq_plugins.models.latent.latent_transformer import LatentTransformerModel

BOS, PAD, EOS, UNK, WORD, OTHER = range(6)
SIZES = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in {
        "layers": 1,
        "embed_dim": 8,
        "ffn_embed_dim": 8,
        "attention_heads": 2,
    }.items()
}
SMOOTH = {"dropout": 0.0, "activation_fn": "gelu"}
"""Quadrature is accurate only without the kinks of ReLU."""


def task_of_words() -> Any:
    """With a vocabulary of two words."""
    dictionary = Dictionary()
    dictionary.add_symbol("word")
    dictionary.add_symbol("other")
    return SimpleNamespace(
        target_dictionary=dictionary, source_dictionary=dictionary, train_step=lambda: None
    )


def tiny(model: dict[str, Any], **criterion: Any) -> tuple[LatentTransformerModel, Any]:
    """Model, of which only flags that differ are named, and ``--criterion stochastic_graph``.

    In float64, with weights with which the latent matters, but for which quadrature is accurate;
    moving averages stay at an arbitrary number.
    """
    task = task_of_words()
    args = Namespace(**{**SIZES, **SMOOTH, **model})
    ARCH_CONFIG_REGISTRY["latent_transformer"](args)
    torch.manual_seed(5)
    built = LatentTransformerModel.build_model(args, task).double()
    torch.nn.init.normal_(built.decoder.latent_projection.weight, std=0.3)
    made = graph_criterion(SimpleNamespace(task=task), **criterion).double()
    for module in made.modules():
        if isinstance(module, Baseline):
            module.eval()
            if hasattr(module, "total"):
                module.total.fill_(0.375)
                module.weight.fill_(1)
    return built, made


def batch(*targets: list[int], sources: list[list[int]] | None = None) -> dict[str, Any]:
    """A batch with these target words; all sources have one length."""
    sources = [[WORD, OTHER, EOS]] * len(targets) if sources is None else sources
    made = sample_of(targets, EOS, PAD, source_length=len(sources[0]))
    made["net_input"]["src_tokens"] = torch.tensor(sources)
    return made


def gaussian_nodes(number: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Hermite's rule for a standard normal (Golub, Welsch 1969)."""
    off = torch.arange(1, number, dtype=torch.float64).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return values, vectors[0].square()


def log_likelihoods(model: LatentTransformerModel, sample: Any, values: Tensor) -> Tensor:
    """``log p(y | x, z)`` of the one sentence of ``sample``, for values ``[number, features]``."""
    net_input = sample["net_input"]
    encoded = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
    rows = torch.zeros(len(values), dtype=torch.long)
    encoded = {**model.encoder.reorder_encoder_out(encoded, rows), "latent_value": [values]}
    fed = net_input["prev_output_tokens"].expand(len(values), -1)
    logits = model.decoder(fed, encoder_out=encoded)[0]
    target = sample["target"].expand(len(values), -1)
    return logits.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1).sum(1)


def gaussian_parameters(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each ``[dim]``, from what a network says of one sentence."""
    mean, raw = numbers.reshape(-1, 2).unbind(1)
    return mean, (1 + (math.e - 1) * raw.exp()).log() + 1e-4


def prior_of(model: LatentTransformerModel, sample: Any) -> tuple[Tensor, Tensor]:
    """Of the one sentence of ``sample``, by the networks' weights alone."""
    return gaussian_parameters(model.encoder.latent_prior(_source(model, sample))[0])


def posterior_of(model: LatentTransformerModel, sample: Any) -> tuple[Tensor, Tensor]:
    """Of the one sentence of ``sample``, by the networks' weights alone."""
    target = model.decoder.embed_tokens(sample["net_input"]["prev_output_tokens"][0])
    target = math.sqrt(target.size(1)) * target.mean(0, keepdim=True)
    both = torch.cat([_source(model, sample), target], dim=1)
    return gaussian_parameters(model.decoder.latent_posterior(both)[0])


def _source(model: LatentTransformerModel, sample: Any) -> Tensor:
    net_input = sample["net_input"]
    encoded = model.encoder(net_input["src_tokens"], src_lengths=net_input["src_lengths"])
    return encoded["encoder_out"][0].mean(0)


def gaussian_divergence(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """``KL(q || p)`` of each dimension, in nats."""
    (mean, deviation), (other_mean, other) = q, p
    ratio = (deviation / other).square()
    return (ratio - 1 - ratio.log() + ((mean - other_mean) / other).square()) / 2
