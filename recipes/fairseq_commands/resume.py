"""What a training that was killed may leave behind, put right before it continues."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from recipes.fairseq_commands.checkpoints import checkpoint_updates

LAST = "checkpoint_last.pt"  # what fairseq-train continues from


def mend_last_checkpoint(save_dir: Path, say: Callable[[str], None]) -> None:
    """Replace a ``checkpoint_last.pt`` that cannot be read by the newest one that can.

    fairseq-train writes one checkpoint under a temporary name, renames it, and then copies it to
    its other names, ``checkpoint_last.pt`` among them; a process that is killed meanwhile leaves
    a part of a copy. Where no checkpoint can be read, training begins anew.
    """
    last = save_dir / LAST
    if not last.is_file() or _readable(last):
        return
    others = [path for path in save_dir.glob("checkpoint*.pt") if path != last]
    for other in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        if _readable(other):
            say(f"  {last} was cut off when the training was killed; continues from {other.name}")
            temporary = last.with_name(f".{last.name}.partial")
            shutil.copyfile(other, temporary)
            os.replace(temporary, last)
            return
    say(f"  {last} was cut off when the training was killed; no other checkpoint: begins anew")
    last.unlink()


def _readable(checkpoint: Path) -> bool:
    try:
        checkpoint_updates(checkpoint)
    except Exception:  # whatever a part of a file makes torch.load raise
        return False
    return True
