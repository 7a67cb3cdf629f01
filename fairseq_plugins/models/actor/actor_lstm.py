"""``--arch actor_lstm``."""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.lstm import LSTMDecoder, LSTMModel, base_architecture
from torch import Tensor, nn

from fairseq_plugins.models.actor.actor import Actor, ActorFlags, ActorModel


class ActorLSTMDecoder(LSTMDecoder):
    """An LSTM decoder that adds the actor's output to its input embeddings.

    At each step the actor reads the first cell's inputs (the embedding, the attended state of the
    step before, the cell's own hidden state) and the mean of the encoder's output.
    """

    actor: Actor

    def extract_features(
        self, prev_output_tokens: Tensor, encoder_out: Any = None, incremental_state: Any = None
    ) -> Any:
        """As the LSTM's."""
        if encoder_out is None:
            raise ValueError("the actor reads the source: the decoder needs encoder_out")
        source = self.actor.source(encoder_out[0].transpose(0, 1), encoder_out[3].t())
        # From the second step on an incremental decoder reads the last token alone.
        fed = prev_output_tokens[:, -1:] if incremental_state else prev_output_tokens
        exists = fed.ne(self.embed_tokens.padding_idx)
        steps = count()

        def perturbed(cell: nn.Module, arguments: Any) -> Any:
            inputs, (hidden, memory) = arguments
            step = next(steps)
            state = torch.cat([inputs, hidden], dim=1)
            added = self.actor(state, source, exists[:, step], step=step)
            embedded, attended = inputs.split(
                [added.size(1), inputs.size(1) - added.size(1)], dim=1
            )
            return torch.cat([embedded + added, attended], dim=1), (hidden, memory)

        with self.layers[0].register_forward_pre_hook(perturbed):
            return super().extract_features(prev_output_tokens, encoder_out, incremental_state)


@register_model("actor_lstm")
class ActorLSTMModel(ActorModel, LSTMModel):
    """fairseq's LSTM with an actor at the decoder's input."""

    def __init__(self, encoder: Any, decoder: LSTMDecoder) -> None:
        # LSTMModel.build_model leaves no choice of the decoder's class.
        decoder.__class__ = ActorLSTMDecoder
        super().__init__(encoder, decoder)

    def actor_for(self, flags: ActorFlags) -> Actor:
        decoder = self.decoder
        cell = decoder.layers[0]
        return Actor(
            cell.input_size + cell.hidden_size,
            decoder.encoder_output_units,
            decoder.embed_tokens.embedding_dim,
            flags,
        )


@register_model_architecture("actor_lstm", "actor_lstm")
def actor_lstm(args: Any) -> None:
    """Sizes of ``--arch lstm``."""
    ActorFlags.set_defaults(args)
    base_architecture(args)
