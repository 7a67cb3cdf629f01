"""Files that appear under their name only when they are complete, and what a full disk means."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from recipes.errors import RecipeError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def full_disk_named(folder: Path, option: str) -> Iterator[None]:
    """Turn "no space left" into a RecipeError that names ``folder`` and the option to move it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise RecipeError(
            f"{folder}: {error.strerror or 'no space left'}; free some space or choose another "
            f"folder with {option}, then run the same command again"
        ) from error


@contextmanager
def written_together(paths: list[Path]) -> Iterator[list[TextIO]]:
    """Text files to write to; all are renamed to ``paths`` at the end, or none is left."""
    temporaries: list[str] = []
    try:
        with ExitStack() as stack:
            files: list[TextIO] = []
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
                temporaries.append(name)
                files.append(stack.enter_context(open(handle, "w", encoding="utf-8", newline="\n")))
            yield files
        mask = os.umask(0)
        os.umask(mask)
        for name, path in zip(temporaries, paths, strict=True):
            os.chmod(name, 0o666 & ~mask)  # mkstemp makes files private
            os.replace(name, path)
    except BaseException:
        for name in temporaries:
            with suppress(FileNotFoundError):
                os.unlink(name)
        raise
