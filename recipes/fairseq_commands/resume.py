"""What a training that was killed may leave behind, put right before it continues."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from recipes.fairseq_commands.checkpoints import (
    LAST,
    BrokenCheckpointError,
    checkpoint_updates,
    whole_checkpoints,
)
from recipes.text import replaced


def mend_last_checkpoint(save_dir: Path, say: Callable[[str], None]) -> None:
    """Replace a ``checkpoint_last.pt`` that is cut off by the newest whole checkpoint.

    fairseq-train writes one checkpoint under a temporary name, renames it, and then copies it to
    its other names, ``checkpoint_last.pt`` among them; a process that is killed meanwhile leaves
    a part of a copy. Where no checkpoint is whole, training begins anew.

    Raises:
        RecipeError: a checkpoint holds what fairseq's do not; nothing was changed.
    """
    last = save_dir / LAST
    try:
        if last.is_file():
            checkpoint_updates(last)
        return
    except BrokenCheckpointError:
        other = next(whole_checkpoints(save_dir), None)
    if other is None:
        say(f"  {last} was cut off when the training was killed; no other checkpoint: begins anew")
        last.unlink()
        return
    say(f"  {last} was cut off when the training was killed; continues from {other.name}")
    with replaced([last]) as (temporary,):
        shutil.copyfile(other, temporary)
