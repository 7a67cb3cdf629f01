"""``--arch actor_lstm``."""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.lstm import LSTMDecoder, LSTMModel, base_architecture
from torch import Tensor, nn

from fairseq_plugins.models.actor.frozen import ActorModel
from fairseq_plugins.models.actor.network import Actor
from fairseq_plugins.models.actor.options import ActorOptions, set_actor_defaults


class ActorLSTMDecoder(LSTMDecoder):
    """An LSTM decoder whose input embeddings are perturbed.

    At each step the actor reads all that the first cell does (the embedding, the attended state
    that is fed back, the cell's own hidden state) and the mean of the encoder's output.
    """

    actor: Actor

    def extract_features(
        self, prev_output_tokens: Tensor, encoder_out: Any = None, incremental_state: Any = None
    ) -> Any:
        """As the LSTM's; shapes of fairseq."""
        if encoder_out is None:
            raise ValueError("the actor reads the source: the decoder needs encoder_out")
        source = self.actor.source(encoder_out[0].transpose(0, 1), encoder_out[3].t())
        # From the second step on an incremental decoder reads the last token alone.
        fed = prev_output_tokens[:, -1:] if incremental_state else prev_output_tokens
        exists = fed.ne(self.embed_tokens.padding_idx)
        steps = count()

        def perturbed(cell: nn.Module, arguments: Any) -> Any:
            read, (hidden, memory) = arguments
            step = next(steps)
            state = torch.cat([read, hidden], dim=1)
            added = self.actor(state, source, exists[:, step], step=step)
            embedded, fed_back = read.split([added.size(1), read.size(1) - added.size(1)], dim=1)
            return torch.cat([embedded + added, fed_back], dim=1), (hidden, memory)

        handle = self.layers[0].register_forward_pre_hook(perturbed)
        try:
            return super().extract_features(prev_output_tokens, encoder_out, incremental_state)
        finally:
            handle.remove()


@register_model("actor_lstm")
class ActorLSTMModel(ActorModel, LSTMModel):
    """fairseq's LSTM with an actor at the decoder's input."""

    def __init__(self, encoder: Any, decoder: LSTMDecoder) -> None:
        # LSTMModel.build_model leaves no choice of the decoder's class.
        decoder.__class__ = ActorLSTMDecoder
        super().__init__(encoder, decoder)

    def actor_for(self, options: ActorOptions) -> Actor:
        decoder = self.decoder
        cell = decoder.layers[0]
        return Actor(
            cell.input_size + cell.hidden_size,
            decoder.encoder_output_units,
            decoder.embed_tokens.embedding_dim,
            options,
        )


@register_model_architecture("actor_lstm", "actor_lstm")
def actor_lstm(args: Any) -> None:
    """Sizes of ``--arch lstm``."""
    set_actor_defaults(args)
    base_architecture(args)
