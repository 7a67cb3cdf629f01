"""How large the decoder's state is that a learned baseline reads, before the first batch."""

from __future__ import annotations

import functools
import weakref
from typing import Any

import torch
from fairseq.tasks import FairseqTask

from fairseq_plugins.decoding import evaluation_mode
from fairseq_plugins.model_pass import (
    check_model,
    model_pass,
    recorded_states,
)

_MODEL = "_fairseq_plugins_model"


class _Reference(weakref.ref):
    """A weak reference to a model; a pickled task has one to nothing in its place."""

    def __reduce__(self) -> Any:
        return type, (None,)


def _remember_model(build_model: Any) -> Any:
    """fairseq tells a criterion the task alone: let that know the model that it has built."""

    @functools.wraps(build_model)
    def building(task: Any, *args: Any, **kwargs: Any) -> Any:
        model = build_model(task, *args, **kwargs)
        setattr(task, _MODEL, _Reference(model))
        return model

    return building


FairseqTask.build_model = _remember_model(FairseqTask.build_model)


def decoder_state_size(task: Any, criterion: str) -> int:
    """The number of channels that the output projection reads, of one step of the task's model.

    Args:
        task: has built the model.
        criterion: value of ``--criterion``, for error messages.

    Raises:
        ValueError: the model has no such state, or does not run on a source of one token.
    """
    model = getattr(task, _MODEL, type(None))()
    if model is None:
        raise ValueError(
            "--baseline learned: the task has not built the model; give --baseline-state-dim, the "
            "size of the decoder's state"
        )
    check_model(model, criterion, autoregressive=True)
    eos = torch.full((1, 1), task.target_dictionary.eos(), device=next(model.parameters()).device)
    net_input = {"src_tokens": eos, "src_lengths": torch.ones_like(eos[0])}
    # What is drawn in training stays the same whether the size is given or not.
    devices = [eos.device] if eos.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad(), evaluation_mode(model):
        try:
            with recorded_states(model.decoder) as states:
                model_pass(model, net_input, eos)
        except (TypeError, RuntimeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"--baseline learned: {type(model).__name__} does not run on a source of one token "
                f"({error}); give --baseline-state-dim, the size of the decoder's state"
            ) from error
    return states[-1].size(-1)
