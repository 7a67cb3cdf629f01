"""Helpers of models that extend one of fairseq's: flags, checkpoints, precision."""

import logging
import re
from argparse import ArgumentParser
from collections.abc import Collection
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, TypeVar

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass, interpret_dc_type
from torch import Tensor, nn

from criterions.checks import check_choice
from fairseq_plugins.flags import as_flag, option

logger = logging.getLogger(__name__)

Flags = TypeVar("Flags", bound="ModelFlags")


def flag(default: Any, text: str) -> Any:
    """A field of :class:`ModelFlags`: its default value and its help text."""
    shown = "" if default is None else f" [default: {'off' if default is False else default}]"
    return option(default, text + shown)


@dataclass
class ModelFlags(FairseqDataclass):
    """Base of dataclasses that declare each flag of a model once: type, default and help text.

    A field ``some_name`` is the flag ``--some-name``.
    """

    @classmethod
    def add_to(cls, parser: ArgumentParser) -> None:
        """Add the flags, without defaults, as fairseq does: an architecture may set others."""
        gen_parser_from_dataclass(parser, cls(), delete_default=True)

    @classmethod
    def set_defaults(cls, args: Any) -> None:
        """Give every flag that was not set its default."""
        for known in fields(cls):
            if known.name != "_name" and not hasattr(args, known.name):
                setattr(args, known.name, known.default)

    @classmethod
    def of(cls: type[Flags], args: Any) -> Flags:
        """The flags' values; where ``args``, say of an old checkpoint, have none, the defaults.

        Raises:
            ValueError: a value is none of the flag's choices, or one of the whole model's is a text
                that fairseq would run as code.
        """
        check_evaluated(args)
        found = cls()
        for known in fields(cls):
            value = getattr(args, known.name, None)
            if known.name == "_name" or value is None:
                continue
            choices = interpret_dc_type(known.type)
            if isinstance(choices, type) and issubclass(choices, Enum):
                check_choice(as_flag(known.name), value, [choice.value for choice in choices])
            setattr(found, known.name, value)
        return found


_EVALUATED = {
    "adaptive_softmax_cutoff": (r"\d+(, *\d+)*", "integers with commas between"),
    "decoder_attention": (r"True|False|0|1", "True or False"),
}
"""Settings that fairseq passes to ``eval``, and what they may be."""


def check_evaluated(args: Any) -> None:
    """Raise ``ValueError`` for a setting, say of a checkpoint, that fairseq would run as code."""
    for name, (pattern, expected) in _EVALUATED.items():
        value = getattr(args, name, None)
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise ValueError(f"{as_flag(name)} must be {expected}; got {value!r}")


def adapt_state_dict(
    module: nn.Module,
    state_dict: dict[str, Tensor],
    name: str,
    parts: Collection[str],
    zero: Collection[str] = (),
) -> None:
    """Let a checkpoint load that lacks some parts of a module, or has some that the module lacks.

    For ``upgrade_state_dict_named``: parameters of missing parts are added to ``state_dict``, that
    of the whole model, as the module has them (0 for parts in ``zero``), and those of surplus parts
    are removed.

    Args:
        module, state_dict, name: the module that is to be loaded, as fairseq passes them.
        parts: prefixes of names of parameters within the module, such as ``decoder.actor.``.
        zero: which of the parts start at 0 if they are missing.
    """
    prefix = f"{name}." if name else ""
    own = module.state_dict()
    for part in parts:
        mine = [key for key in own if key.startswith(part)]
        given = [key for key in state_dict if key.startswith(prefix + part)]
        if mine and not given:
            logger.info("the checkpoint has no %s: it starts anew", part.rstrip("."))
            for key in mine:
                new = torch.zeros_like(own[key]) if part in zero else own[key].clone()
                state_dict[prefix + key] = new
        elif given and not mine:
            logger.info("%s of the checkpoint is not used", part.rstrip("."))
            for key in given:
                del state_dict[key]


def at_least_float32(tensor: Tensor) -> Tensor:
    """In float32, or in float64 if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def mean_over_tokens(states: Tensor, padding: Tensor) -> Tensor:
    """``[batch, channels]``: mean of ``[batch, length, channels]`` where ``padding`` is False.

    Summed in float32 at least; 0 for a sentence that is all padding.
    """
    exists = ~padding.unsqueeze(-1)
    wide = torch.promote_types(states.dtype, torch.float32)
    total = states.masked_fill(~exists, 0).sum(1, dtype=wide)
    return (total / exists.sum(1).clamp(min=1)).type_as(states)
