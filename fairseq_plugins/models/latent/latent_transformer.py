"""A transformer with a latent variable for each sentence (conditional VAE).

Sohn, Lee, Yan 2015 (conditional VAE); Zhang et al. 2016, arXiv 1605.07869 (of translation);
Kingma, Welling 2014, arXiv 1312.6114 (reparameterization, negative evidence lower bound).
"""

from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum
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
from fairseq_plugins.flags import SCHEDULE, at_least, below_1, schedule_of
from fairseq_plugins.model_pass import reference_prefix
from fairseq_plugins.models.extending import (
    ModelFlags,
    adapt_state_dict,
    flag,
    mean_over_tokens,
)
from fairseq_plugins.models.latent.latent_distributions import KINDS, LatentKind, divergence

LATENT = "latent"
"""Name of the node in the stochastic graph."""
KL = "kl"
"""Name of the cost, and of the divergence in the log."""

_ACTIVE = 0.1
"""Mean divergence in a batch, in nats, above which a part of the latent counts as active.

More than distributions on sphere and SO(3) have at least.
"""


@dataclass
class LatentFlags(ModelFlags):
    """Flags of the latent variable."""

    latent: ChoiceEnum(sorted(KINDS)) = flag(
        "gaussian",
        "what the latent variable of a sentence is: a vector (gaussian), or points on copies of a "
        "manifold",
    )
    latent_dim: int = flag(16, "dimensions of a gaussian latent, or copies of the manifold")
    latent_prior: Optional[ChoiceEnum(["conditional", "fixed"])] = flag(
        None,
        "conditional: p(z | x), computed from the source; fixed: standard normal, or uniform on "
        "the manifold [default: conditional for gaussian, fixed for manifolds]",
    )
    latent_from: ChoiceEnum(["posterior", "prior"]) = flag(
        "posterior",
        "where z is sampled from in teacher-forced training: posterior q(z | x, y), with the KL "
        "divergence as a cost, or prior, without one.  While outputs are decoded it is always the "
        "prior",
    )
    latent_in_evaluation: ChoiceEnum(["deterministic", "sample"]) = flag(
        "deterministic", "deterministic: the prior's mean; sample: one sample for each sentence"
    )
    kl_weight: str = flag("1", f"factor of the KL divergence, by update: {SCHEDULE}")
    free_bits: float = flag(
        0.0,
        "KL divergence, in nats, below which a dimension of a gaussian latent, or a copy of a "
        "manifold, has no cost in a sentence",
    )
    word_dropout: float = flag(
        0.0,
        "in training, probability that the decoder reads <unk> in place of a token of the target, "
        "so that it needs the latent variable (Bowman et al. 2016)",
    )

    @classmethod
    def of(cls, args: Any) -> "LatentFlags":
        """The flags' values, checked.

        Raises:
            ValueError: a value is out of range; names the flag.
        """
        flags = super().of(args)
        at_least("--latent-dim", flags.latent_dim, 1)
        at_least("--free-bits", flags.free_bits, 0)
        below_1("--word-dropout", flags.word_dropout)
        if flags.latent_prior is None:
            flags.latent_prior = "conditional" if flags.latent == "gaussian" else "fixed"
        return flags

    def kind(self) -> LatentKind:
        """The family of distributions."""
        return KINDS[self.latent](self.latent_dim)


def parameter_network(channels: int, hidden: int, kind: LatentKind) -> nn.Sequential:
    """Computes parameters of a distribution from ``[batch, channels]``, with one hidden layer."""
    return nn.Sequential(nn.Linear(channels, hidden), nn.Tanh(), nn.Linear(hidden, kind.parameters))


def zero_term(network: nn.Module | None) -> Tensor | float:
    """0, with a gradient of 0 for each parameter: data-parallel training needs one."""
    if network is None or not torch.is_grad_enabled():
        return 0.0
    # Of one number each: a sum over all may overflow in float16.
    return sum(0 * parameter.flatten()[0] for parameter in network.parameters())


class LatentTransformerEncoder(TransformerEncoder):
    """fairseq's encoder, which also computes the prior.

    Its output has three more entries, lists as the others are: ``latent_source`` (``[batch,
    channels]``, mean of the states), ``latent_prior`` (parameters ``[batch, ...]`` of p(z | x);
    empty if the prior is fixed) and ``latent_value`` (``[batch, features]``; empty unless it is
    sampled here, in evaluation).
    """

    def __init__(self, cfg: TransformerConfig, dictionary: Any, embed_tokens: nn.Module) -> None:
        super().__init__(cfg, dictionary, embed_tokens)
        self.latent = LatentFlags.of(cfg)
        self.kind = self.latent.kind()
        channels = cfg.encoder.embed_dim
        self.latent_prior = None
        if self.latent.latent_prior == "conditional":
            self.latent_prior = parameter_network(channels, channels, self.kind)

    def forward_scriptable(self, src_tokens: Tensor, *arguments: Any, **keywords: Any) -> Any:
        """As fairseq's encoder, with the entries for the latent."""
        output = super().forward_scriptable(src_tokens, *arguments, **keywords)
        output["encoder_out"] = [
            states + zero_term(self.latent_prior) for states in output["encoder_out"]
        ]
        states = output["encoder_out"][0].transpose(0, 1)
        source = mean_over_tokens(states, output["encoder_padding_mask"][0])
        parameters = [] if self.latent_prior is None else [self.latent_prior(source)]
        value = []
        # In the decoder it would be sampled at every step, and for every hypothesis of a beam.
        in_graph = active_graph() is not None or active_draws() is not None
        sampled = self.latent.latent_in_evaluation == "sample"
        if sampled and not self.training and not in_graph:
            value = [self.kind.prior(source, parameters).sample().flatten(1)]
        return {
            **output,
            "latent_source": [source],
            "latent_prior": parameters,
            "latent_value": value,
        }

    def reorder_encoder_out(self, encoder_out: Any, new_order: Tensor) -> Any:
        """As fairseq's encoder."""
        reordered = super().reorder_encoder_out(encoder_out, new_order)
        for name in ("latent_source", "latent_prior", "latent_value"):
            reordered[name] = [tensor.index_select(0, new_order) for tensor in encoder_out[name]]
        return reordered


class LatentTransformerDecoder(TransformerDecoder):
    """fairseq's decoder, which adds a projection of z to every input embedding.

    z is sampled here, not in the encoder: so several outputs of one source each have their own.
    """

    def __init__(self, cfg: TransformerConfig, dictionary: Any, embed_tokens: nn.Module) -> None:
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn=cfg.no_cross_attention)
        self.latent = LatentFlags.of(cfg)
        self.kind = self.latent.kind()
        self.kl_weight = schedule_of("--kl-weight", self.latent.kl_weight, at_least, 0)
        self.latent_estimator = Reparameterized()
        source, channels = cfg.encoder.embed_dim, cfg.decoder.embed_dim
        self.latent_posterior = None
        if self.latent.latent_from == "posterior":
            inputs = source + embed_tokens.embedding_dim
            self.latent_posterior = parameter_network(inputs, channels, self.kind)
        self.latent_projection = nn.Linear(self.kind.features, channels, bias=False)

    def extract_features_scriptable(
        self, prev_output_tokens: Tensor, encoder_out: Any, *arguments: Any, **keywords: Any
    ) -> Any:
        """As fairseq's decoder, with the latent."""
        value = self.latent_value(prev_output_tokens, encoder_out)
        added = self.latent_projection(value.to(self.latent_projection.weight.dtype))
        added = (added + zero_term(self.latent_posterior)).unsqueeze(1)
        prev_output_tokens = self.with_word_dropout(prev_output_tokens)
        # What the embeddings, positions included, go through first.
        first = self.dropout_module
        if self.layernorm_embedding is not None:
            first = self.layernorm_embedding
        with first.register_forward_pre_hook(lambda module, inputs: inputs[0] + added):
            return super().extract_features_scriptable(
                prev_output_tokens, encoder_out, *arguments, **keywords
            )

    def latent_value(self, prev_output_tokens: Tensor, encoder_out: Any) -> Tensor:
        """z, ``[batch, features]``: a sample of the posterior or the prior, or the prior's mean.

        In teacher forcing under a graph the posterior reads ``prev_output_tokens``
        ``[batch, tgt_len]``, unless :func:`reference_prefix` is given.
        """
        if encoder_out["latent_value"]:
            return encoder_out["latent_value"][0]
        source, graph = encoder_out["latent_source"][0], active_graph()
        prior = self.kind.prior(source, encoder_out["latent_prior"])
        if graph is None or isinstance(graph, ReplayingGraph):
            return sample(LATENT, prior).flatten(1)
        if self.latent_posterior is None:
            return sample(LATENT, prior, estimator=self.latent_estimator).flatten(1)
        posterior = self.posterior(source, _reference(prev_output_tokens))
        before = {node.name for node in graph.nodes.values()}
        value = sample(LATENT, posterior, estimator=self.latent_estimator)
        parts, through_value = divergence(posterior, prior, value)
        weight = parts.new_full((), self.kl_weight(graph.update))
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
        """``[batch, tgt_len]``: some tokens of a fed target replaced by ``<unk>``.

        Bowman et al. 2016.  In training, in sentences whose target itself is fed: tokens that the
        model sampled are scored, or counted, as they are.
        """
        graph, probability = active_graph(), self.latent.word_dropout
        if not probability or not self.training or graph is None:
            return prev_output_tokens
        reference = _reference(prev_output_tokens)
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
        """q(z | x, y), of batch shape ``[batch]``.

        From ``source`` ``[batch, channels]``, the mean of the encoder's states, and ``reference``
        ``[batch, tgt_len]``, ``prev_output_tokens`` of the target.
        """
        embedded = self.embed_scale * self.embed_tokens(reference)
        target = mean_over_tokens(embedded, reference.eq(self.padding_idx))
        return self.kind.distribution(self.latent_posterior(torch.cat([source, target], dim=1)))


def _reference(prev_output_tokens: Tensor) -> Tensor:
    """``prev_output_tokens`` of the reference; where none is given, the decoder is fed it."""
    reference = reference_prefix()
    return prev_output_tokens if reference is None else reference


@register_model("latent_transformer")
class LatentTransformerModel(TransformerModel):
    """fairseq's transformer with a latent variable; see docs/latent_variables.md."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Add the flags of ``transformer`` and those of the latent."""
        super().add_args(parser)
        LatentFlags.add_to(parser)

    @classmethod
    def build_encoder(cls, cfg: Any, src_dict: Any, embed_tokens: nn.Module) -> Any:
        """As fairseq's transformer."""
        return LatentTransformerEncoder(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, cfg: Any, tgt_dict: Any, embed_tokens: nn.Module) -> Any:
        """As fairseq's transformer."""
        return LatentTransformerDecoder(cfg, tgt_dict, embed_tokens)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Let checkpoints of a plain transformer, or with another ``--latent-from``, load.

        A missing projection starts at 0, so that a plain transformer's outputs stay the same.
        """
        super().upgrade_state_dict_named(state_dict, name)
        projection = "decoder.latent_projection."
        networks = ("encoder.latent_prior.", "decoder.latent_posterior.")
        adapt_state_dict(self, state_dict, name, (*networks, projection), zero=(projection,))


@register_model_architecture("latent_transformer", "latent_transformer")
def latent_transformer(args: Any) -> None:
    """Sizes of fairseq's ``transformer``."""
    base_architecture(args)


@register_model_architecture("latent_transformer", "latent_transformer_iwslt_de_en")
def latent_transformer_iwslt_de_en(args: Any) -> None:
    """Sizes of fairseq's ``transformer_iwslt_de_en``."""
    transformer_iwslt_de_en(args)
