"""Resuming a run whose criterion had other parameters, of a learned baseline for one.

fairseq's trainer gives the optimiser the model's parameters and then the criterion's; torch takes
no state of another number of parameters.  Here the model's part is loaded, and the rest starts
anew.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer
from fairseq.optim.fp16_optimizer import _MemoryEfficientFP16OptimizerMixin
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_criterion: weakref.ref[nn.Module] | None = None


def load_state_of_other_criterions(criterion: nn.Module) -> None:
    """From now on optimisers of the model and this criterion load what fits of a checkpoint."""
    global _criterion
    _criterion = weakref.ref(criterion)


def fitted(
    state: dict[str, Any], own: Sequence[Tensor], of_criterion: Sequence[Tensor]
) -> dict[str, Any]:
    """An optimiser's state with the model's part as it is, in the form that the optimiser takes.

    Args:
        state: of ``state_dict()``, possibly with another criterion.
        own: parameters of the optimiser, the criterion's last; or one vector of them all, as with
            ``--fp16``.
        of_criterion: those of the criterion.

    Returns:
        the same, if it fits or if the difference is not the criterion's.
    """
    if len(state.get("param_groups", ())) != 1:
        return state
    (group,), entries = state["param_groups"], state["state"]
    saved = len(group["params"])
    if len(own) == saved == 1 and own[0].dim() == 1:
        if all(_fit(values, own[0]) for values in entries.values()):
            return state
        added = sum(parameter.numel() for parameter in of_criterion)
        of_model = own[0].numel() - added

        def resized(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.dim() == 0:
                return value
            return torch.nn.functional.pad(value[:of_model], (0, added))

        vectors = {
            index: {name: resized(value) for name, value in values.items()}
            for index, values in entries.items()
        }
        return {**state, "state": vectors}
    of_model = len(own) - len(of_criterion)
    criterion = range(of_model, len(own))
    same = saved == len(own) and all(_fit(entries.get(at, {}), own[at]) for at in criterion)
    if same or saved < of_model:
        return state
    kept = {index: values for index, values in entries.items() if index < of_model}
    group = {**group, "params": list(range(len(own)))}
    return {**state, "state": kept, "param_groups": [group]}


def _fit(values: dict[str, Any], parameter: Tensor) -> bool:
    """Whether all that an optimiser keeps of a parameter, but for numbers, is of its shape.

    Adafactor keeps the means of a matrix's rows and columns.
    """
    shape = parameter.shape
    known = ((), shape, shape[:-1], shape[:-2] + shape[-1:])
    return all(value.shape in known for value in values.values() if isinstance(value, Tensor))


def _loading_what_fits(load: Any) -> Any:
    @functools.wraps(load)
    def loading(self: Any, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        criterion = _criterion() if _criterion is not None else None
        if criterion is not None:
            trained = [each for each in criterion.parameters() if each.requires_grad]
            known, state_dict = state_dict, fitted(state_dict, list(self.params), trained)
            if state_dict is not known:
                logger.warning(
                    "the checkpoint is that of another objective: the optimiser starts anew for "
                    "the criterion's parameters, and goes on for the model's"
                )
        return load(self, state_dict, *args, **kwargs)

    return loading


for _class in (FairseqOptimizer, _MemoryEfficientFP16OptimizerMixin):
    _class.load_state_dict = _loading_what_fits(_class.load_state_dict)
