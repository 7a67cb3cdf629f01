"""``--reward module:function``: a reward that the user wrote."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq_plugins.checkpoint_safety import FROM_CHECKPOINT
from fairseq_plugins.rewards.reward import Outputs, Reward, RewardOptions
from fairseq_plugins.rewards.text_rewards import Texts

Function = Callable[[list[str], list[str], list[str]], Sequence[float]]
"""Hypotheses, references and sources, one of each for every output, to as many rewards."""


class UserFunction(Reward):
    """Calls the user's function in this process, without gradient, once for each batch."""

    def __init__(self, options: RewardOptions) -> None:
        super().__init__(options)
        self._function = load_function(options.reward)
        self._texts = Texts(options)

    def __call__(self, outputs: Outputs) -> Tensor:
        hypotheses = self._texts.hypotheses(outputs)
        references = self._texts.references(outputs)
        sources = self._texts.sources(outputs)
        try:
            with torch.no_grad():
                result = self._function(hypotheses, references, sources)
                if isinstance(result, Tensor):
                    result = result.tolist()  # one copy from an accelerator for all elements
                elif isinstance(result, Iterator):
                    result = list(result)
        except KeyboardInterrupt:
            raise
        # fairseq leaves a batch out after a RuntimeError that speaks of memory, and an exit would
        # end training as if it had succeeded.
        except BaseException as error:
            raise ValueError(
                f"--reward {self.options.reward} raised {type(error).__name__}: {error}"
            ) from error
        return self._checked(result, hypotheses).to(outputs.tokens.device)

    def _checked(self, result: Any, hypotheses: list[str]) -> Tensor:
        name = f"--reward {self.options.reward}"
        try:
            rewards = [float(reward) for reward in result]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} must return a sequence of numbers, one for each hypothesis; "
                f"got {type(result).__name__} ({error})"
            ) from error
        if len(rewards) != len(hypotheses):
            raise ValueError(
                f"{name} must return a number for each of {len(hypotheses)} hypotheses; "
                f"got {len(rewards)}"
            )
        checked = torch.tensor(rewards, dtype=torch.float64).float()
        if wrong := (~checked.isfinite()).nonzero().flatten().tolist():
            index = wrong[0]
            raise ValueError(
                f"{name} must return numbers that are finite in float32; got {rewards[index]} for "
                f"hypothesis {index}: {hypotheses[index]!r}"
            )
        return checked


def load_function(name: str) -> Function:
    """The function that ``module:function`` names; modules of the working directory count.

    Raises:
        ValueError: there is no such module or function, or only a checkpoint asks for it; it starts
            with ``--reward``.
    """
    if name.startswith(FROM_CHECKPOINT):
        stored = name.removeprefix(FROM_CHECKPOINT)
        raise ValueError(
            f"--reward {stored} is code that the settings in the checkpoint name; it is run only "
            f"if you give it again: --criterion stochastic_graph --reward {stored}"
        )
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"--reward {name}: write module:function, such as my_rewards:length_ratio")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # last, so that no file there hides an installed package
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"--reward {name}: cannot import {module_name} ({error}); it must be installed, on "
            f"PYTHONPATH or in the working directory, {os.getcwd()}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        what = "has no function" if function is None else "has, but cannot call,"
        where = getattr(module, "__file__", None) or "a built-in module"
        raise ValueError(f"--reward {name}: {module_name} ({where}) {what} {function_name}")
    return function
