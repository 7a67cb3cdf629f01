"""Command-line flags of fairseq in a recipe: those of the runner, and reading others."""

from __future__ import annotations

# The runner writes these itself; a second value in a recipe would break the layout.
RESERVED_FLAGS = (
    "--save-dir",
    "--restore-file",
    "--finetune-from-model",
    "--user-dir",
    "--task",
    "--source-lang",
    "--target-lang",
    "--log-format",
    "--log-interval",
    "--no-progress-bar",
    "--cpu",
    "--fp16",
)
# What "the same number of updates" means for arms that are to be compared.
ENDS = ("--max-update", "--max-epoch")
BUDGET_FLAGS = (*ENDS, "--update-freq", "--max-tokens", "--batch-size")


def flag_value(flags: list[str], name: str) -> str | None:
    """The value the last ``name VALUE`` (or ``name=VALUE``) in ``flags`` gives, else None."""
    value = None
    for position, flag in enumerate(flags):
        if flag == name and position + 1 < len(flags):
            value = flags[position + 1]
        elif flag.startswith(name + "="):
            value = flag[len(name) + 1 :]
    return value


def without_flag(flags: list[str], name: str) -> list[str]:
    """``flags`` without any ``name VALUE`` and ``name=VALUE``."""
    kept, skip = [], False
    for flag in flags:
        if skip:
            skip = False
        elif flag == name:
            skip = True
        elif not flag.startswith(name + "="):
            kept.append(flag)
    return kept
