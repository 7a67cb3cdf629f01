"""What a trained model with an actor is, whatever its architecture."""

from __future__ import annotations

from argparse import ArgumentParser
from copy import copy
from typing import Any

from fairseq_plugins.models.actor.network import Actor
from fairseq_plugins.models.actor.options import (
    ActorOptions,
    add_actor_flags,
    set_actor_defaults,
)


class ActorModel:
    """To be put before a fairseq encoder-decoder model among the bases of a class.

    All parameters but the actor's are frozen.  They get no gradient, and fairseq's optimiser does
    not see them; weight decay, too, leaves them alone.  In training, dropout of what is frozen is
    off: it would neither learn to bear it nor be used with it, and the actor's gradient would be
    noise of another network than the one that translates.
    """

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """The architecture's flags, and the actor's."""
        super().add_args(parser)
        add_actor_flags(parser)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> Any:
        """Build the model as its architecture does, then give its decoder an actor."""
        set_actor_defaults(args)
        options = ActorOptions.of(args)
        model = super().build_model(args, task)
        model.decoder.actor = model.actor_for(options)
        model.frozen = not options.train_all
        model.keeps_dropout = options.keep_dropout
        if model.frozen:
            model.requires_grad_(False)
            model.decoder.actor.requires_grad_(True)
        return model

    frozen = False
    keeps_dropout = False
    _loaded = False

    def actor_for(self, options: ActorOptions) -> Actor:
        """An actor of the sizes that the decoder needs."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Any:
        """Training mode: for what learns, where the rest is frozen."""
        super().train(mode)
        if mode and self.frozen and not self.keeps_dropout:
            self.encoder.eval()
            self.decoder.eval()
            self.decoder.actor.train()
        return self

    def load_state_dict(self, state_dict: Any, *args: Any, **options: Any) -> Any:
        """As fairseq's models; also from a checkpoint of the same model without an actor."""
        # fairseq writes what a checkpoint lacks into the dictionary that it is given.
        loaded = super().load_state_dict(copy(state_dict), *args, **options)
        self._loaded = True
        return loaded

    def forward(self, *args: Any, **options: Any) -> Any:
        """As the architecture's.

        Raises:
            ValueError: in training, if all that would learn is the actor of a random model.
        """
        if self.training and self.frozen and not self._loaded:
            raise ValueError(
                "only the actor learns, but no checkpoint was loaded, so that it would learn to "
                "steer random weights: start from a trained model with --finetune-from-model, or "
                "train all of it with --actor-train-all"
            )
        return super().forward(*args, **options)
