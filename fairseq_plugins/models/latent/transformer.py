"""A transformer with a latent variable of the whole sentence (conditional VAE).

Sohn, Lee, Yan 2015 (conditional VAE); Zhang et al. 2016, arXiv 1605.07869 (of translation);
Kingma, Welling 2014, arXiv 1312.6114 (reparameterization, negative evidence lower bound).
"""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoder,
    TransformerEncoder,
    TransformerModel,
    base_architecture,
    transformer_iwslt_de_en,
)
from torch import Tensor, nn
from torch.distributions import Independent

from criterions.stochastic_graph import (
    Reparameterized,
    ReplayingGraph,
    active_draws,
    active_graph,
    sample,
)
from fairseq_plugins.models.latent.kinds import KINDS, divergence
from fairseq_plugins.models.latent.networks import LawNetwork, anchor, mean_over_tokens
from fairseq_plugins.models.latent.settings import LatentSettings, add_latent_flags
from fairseq_plugins.reference_prefix import reference_prefix

LATENT = "latent"
"""Name of the node."""
KL = "kl"
"""Name of the cost, and of the divergence in the log."""

_PROJECTION = "decoder.latent_projection."
_OWN = ("encoder.latent_prior.", "decoder.latent_posterior.", _PROJECTION)
"""Parameters that a plain transformer does not have."""

_ACTIVE = 0.1
"""Nats of divergence, in the mean of a batch, above which a part of the latent is in use.

More than laws on sphere and SO(3) have at least.
"""

logger = logging.getLogger(__name__)


class LatentTransformerEncoder(TransformerEncoder):
    """Says the prior of the latent, too.

    Its output has three entries more, lists as the others are: ``latent_source`` (``[batch,
    channels]``, mean of the states), ``latent_prior`` (parameters ``[batch, ...]`` of p(z | x);
    empty if the prior is fixed) and ``latent_value`` (``[batch, features]``; empty unless it was
    drawn here, in evaluation).
    """

    def __init__(self, cfg: TransformerConfig, dictionary: Any, embed_tokens: nn.Module) -> None:
        super().__init__(cfg, dictionary, embed_tokens)
        self.latent = LatentSettings.of(cfg)
        self.kind = KINDS[self.latent.kind](self.latent.dim)
        channels = cfg.encoder.embed_dim
        self.latent_prior = None
        if self.latent.prior == "conditional":
            self.latent_prior = LawNetwork(channels, channels, self.kind)

    def forward_scriptable(self, src_tokens: Tensor, *arguments: Any, **keywords: Any) -> Any:
        """As of fairseq's encoder, with the entries for the latent."""
        output = super().forward_scriptable(src_tokens, *arguments, **keywords)
        output["encoder_out"] = [
            states + anchor(self.latent_prior) for states in output["encoder_out"]
        ]
        states = output["encoder_out"][0].transpose(0, 1)
        source = mean_over_tokens(states, output["encoder_padding_mask"][0])
        parameters = [] if self.latent_prior is None else [self.latent_prior(source)]
        value = []
        # In the decoder it would be drawn at every step, and for every hypothesis of a beam.
        if self.latent.samples_in_evaluation and not self.training and not _recorded():
            value = [self.kind.prior(source, parameters).sample().flatten(1)]
        return {
            **output,
            "latent_source": [source],
            "latent_prior": parameters,
            "latent_value": value,
        }

    def reorder_encoder_out(self, encoder_out: Any, new_order: Tensor) -> Any:
        """As of fairseq's encoder."""
        reordered = super().reorder_encoder_out(encoder_out, new_order)
        for name in ("latent_source", "latent_prior", "latent_value"):
            reordered[name] = [rows.index_select(0, new_order) for rows in encoder_out[name]]
        return reordered


class LatentTransformerDecoder(TransformerDecoder):
    """Adds a projection of z to every input embedding.

    z is drawn here, and not in the encoder, so that the samples of a source each have their own.
    """

    def __init__(self, cfg: TransformerConfig, dictionary: Any, embed_tokens: nn.Module) -> None:
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn=cfg.no_cross_attention)
        self.latent = LatentSettings.of(cfg)
        self.kind = KINDS[self.latent.kind](self.latent.dim)
        self.latent_estimator = Reparameterized()
        source, channels = cfg.encoder.embed_dim, cfg.decoder.embed_dim
        self.latent_posterior = None
        if self.latent.source == "posterior":
            inputs = source + embed_tokens.embedding_dim
            self.latent_posterior = LawNetwork(inputs, channels, self.kind)
        self.latent_projection = nn.Linear(self.kind.features, channels, bias=False)
        if self.embed_positions is None:
            self.embed_positions = NoPositions(channels, self.max_target_positions)

    def extract_features_scriptable(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Any,
        incremental_state: Any = None,
        *arguments: Any,
        **keywords: Any,
    ) -> Any:
        """As of fairseq's decoder, with the latent."""
        value = self.latent_value(prev_output_tokens, encoder_out)
        added = self.latent_projection(value.to(self.latent_projection.weight.dtype))
        added = added + anchor(self.latent_posterior)
        prev_output_tokens = self.with_word_dropout(prev_output_tokens)
        with _added_to_output(self.embed_positions, added.unsqueeze(1)):
            return super().extract_features_scriptable(
                prev_output_tokens, encoder_out, incremental_state, *arguments, **keywords
            )

    def latent_value(self, prev_output_tokens: Tensor, encoder_out: Any) -> Tensor:
        """z, ``[rows, features]``: of the posterior, of the prior, or the prior's mean.

        Args:
            prev_output_tokens: ``[rows, tgt_len]``; the target, where a graph is recorded that
                does not replay, unless :func:`reference_prefix` says otherwise.
            encoder_out: of :class:`LatentTransformerEncoder`.
        """
        if encoder_out["latent_value"]:
            return encoder_out["latent_value"][0]
        source, graph = encoder_out["latent_source"][0], active_graph()
        prior = self.kind.prior(source, encoder_out["latent_prior"])
        if graph is None or isinstance(graph, ReplayingGraph):
            return sample(LATENT, prior).flatten(1)
        if self.latent_posterior is None:
            return sample(LATENT, prior, estimator=self.latent_estimator).flatten(1)
        reference = _target(prev_output_tokens)
        posterior = self.posterior(source, reference)
        before = {node.name for node in graph.nodes.values()}
        value = sample(LATENT, posterior, estimator=self.latent_estimator)
        parts, through_value = divergence(posterior, prior, value)
        weight = parts.new_full((), self.latent.kl_weight(graph.update))
        graph.observe(KL, parts.sum(1))
        graph.observe("latent_active", (parts.detach().mean(0) > _ACTIVE).sum().float())
        graph.observe("kl_weight", weight)
        if self.latent.free_bits:
            parts = parts.clamp(min=self.latent.free_bits)
        # Otherwise a score function of the value would count what the gradient has already.
        parents = None if through_value else before
        graph.cost(KL, weight * parts.sum(1), parents=parents)
        return value.flatten(1)

    def with_word_dropout(self, prev_output_tokens: Tensor) -> Tensor:
        """The target ``[rows, tgt_len]``, some of its tokens unknown (Bowman et al. 2016).

        In training, in the rows where the target itself is fed: tokens that the model chose are
        scored, or counted, as they were chosen.
        """
        graph, probability = active_graph(), self.latent.word_dropout
        if not probability or not self.training or graph is None:
            return prev_output_tokens
        reference = _target(prev_output_tokens)
        if isinstance(graph, ReplayingGraph) or reference.shape != prev_output_tokens.shape:
            return prev_output_tokens
        target = prev_output_tokens.eq(reference).all(1, keepdim=True)
        exists = prev_output_tokens.ne(self.padding_idx)
        begun = exists.cumsum(1) > 1  # after the start symbol
        dropped = torch.rand(exists.shape, device=exists.device) < probability
        return prev_output_tokens.masked_fill(
            target & exists & begun & dropped, self.dictionary.unk()
        )

    def posterior(self, source: Tensor, reference: Tensor) -> Independent:
        """q(z | x, y), of batch shape ``[rows]``.

        Args:
            source: ``[rows, channels]``, mean of the encoder's states.
            reference: ``[rows, tgt_len]``, ``prev_output_tokens`` of the target.
        """
        embedded = self.embed_scale * self.embed_tokens(reference)
        target = mean_over_tokens(embedded, reference.eq(self.padding_idx))
        return self.kind.law(self.latent_posterior(torch.cat([source, target], dim=1)))


class NoPositions(nn.Module):
    """Takes the place of positional embeddings under ``--no-token-positional-embeddings``.

    Args:
        channels: of the decoder.
        longest: tokens that a target may have.
    """

    def __init__(self, channels: int, longest: int) -> None:
        super().__init__()
        self.channels, self.max_positions = channels, longest

    def forward(self, tokens: Tensor, incremental_state: Any = None) -> Tensor:
        """Zeros, ``[1, 1, channels]``."""
        return torch.zeros(1, 1, self.channels, device=tokens.device)


def _target(prev_output_tokens: Tensor) -> Tensor:
    """That of the reference; where none is given, it is what is fed."""
    reference = reference_prefix()
    return prev_output_tokens if reference is None else reference


def _recorded() -> bool:
    """Whether layers are to draw."""
    return active_graph() is not None or active_draws() is not None


@contextmanager
def _added_to_output(module: nn.Module, added: Tensor) -> Iterator[None]:
    """For a while, let the module's output have ``added`` in it."""
    handle = module.register_forward_hook(lambda module, arguments, output: output + added)
    try:
        yield
    finally:
        handle.remove()


@register_model("latent_transformer")
class LatentTransformerModel(TransformerModel):
    """fairseq's transformer with a latent variable; see docs/latent_variables.md."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """The transformer's flags and those of the latent."""
        super().add_args(parser)
        add_latent_flags(parser)

    @classmethod
    def build_encoder(cls, args: Any, src_dict: Any, embed_tokens: nn.Module) -> Any:
        """As of fairseq's transformer."""
        cfg = TransformerConfig.from_namespace(args)
        return LatentTransformerEncoder(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, args: Any, tgt_dict: Any, embed_tokens: nn.Module) -> Any:
        """As of fairseq's transformer."""
        cfg = TransformerConfig.from_namespace(args)
        return LatentTransformerDecoder(cfg, tgt_dict, embed_tokens)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Let checkpoints of a plain transformer, or with another ``--latent-from``, be loaded.

        Networks that are missing start anew.  A missing projection starts at 0, so that a plain
        transformer's outputs stay what they were.
        """
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        own = self.state_dict()
        for part in _OWN:
            mine = {key: value for key, value in own.items() if key.startswith(part)}
            given = [key for key in state_dict if key.startswith(prefix + part)]
            if mine and not given:
                logger.info("the checkpoint has no %s: it starts anew", part.rstrip("."))
                for key, value in mine.items():
                    new = torch.zeros_like(value) if part == _PROJECTION else value.clone()
                    state_dict[prefix + key] = new
            elif given and not mine:
                logger.info("%s of the checkpoint is not used", part.rstrip("."))
                for key in given:
                    del state_dict[key]


@register_model_architecture("latent_transformer", "latent_transformer")
def latent_transformer(args: Any) -> None:
    """fairseq's ``transformer``, with a latent."""
    base_architecture(args)


@register_model_architecture("latent_transformer", "latent_transformer_iwslt_de_en")
def latent_transformer_iwslt_de_en(args: Any) -> None:
    """fairseq's ``transformer_iwslt_de_en``, with a latent."""
    transformer_iwslt_de_en(args)
