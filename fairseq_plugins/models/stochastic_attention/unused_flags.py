"""Flags that were given, but have no effect beside another."""

from __future__ import annotations

from typing import Any

from fairseq_plugins.models.stochastic_attention.flags import AttentionSettings

_TEMPERED = ("gumbel", "gumbel_st")


class RefusesUnusedFlags:
    """To be put before a fairseq model among the bases of a class.

    The refusal comes where training begins, not where the model is built: a checkpoint whose
    ``attention`` is another by ``--model-overrides`` still translates.
    """

    unused_flags: str | None = None
    """What is wrong with them; None if all have an effect."""

    def train(self, mode: bool = True) -> Any:
        """Training mode, or evaluation mode.

        Raises:
            ValueError: for training mode, if a flag would have no effect.
        """
        if mode and self.unused_flags is not None:
            raise ValueError(self.unused_flags)
        return super().train(mode)  # type: ignore[misc]


def unused_flags(args: Any, settings: AttentionSettings) -> str | None:
    """Names the first flag without effect, and says why; None if there is none.

    Args:
        args: of the model; a temperature of 1 is the default.
        settings: what they say.
    """
    if settings.kind not in _TEMPERED and args.attention_temperature != "1":
        return (
            f"--attention-temperature does not go with --attention {settings.kind}, which has none "
            "(gumbel and gumbel_st have): leave it out"
        )
    for name in ("attention_in_layers", "attention_in_heads"):
        if settings.is_soft and getattr(args, name, None) is not None:
            return (
                f"--{name.replace('_', '-')} does not go with --attention soft, which is that of "
                "all layers and heads: leave it out, or choose another --attention"
            )
    return None
