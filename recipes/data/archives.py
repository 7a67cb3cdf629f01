"""Lines of a text file, or of a member of an archive, read as a stream and never unpacked."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from recipes.errors import RecipeError
from recipes.text import lines_of_stream

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


def lines_of(path: Path, member: str | None = None) -> Iterator[str]:
    """Lines, without their ends, of ``path`` or of ``member`` of the archive ``path``.

    Names in .gz and .xz are decompressed, inside archives too. Lines are split at newlines only.

    Raises:
        RecipeError: the file or member does not exist, is broken, is not UTF-8 text, or has a line
            too long for the memory.
    """
    name = f"{path}: {member}" if member else str(path)
    try:
        with ExitStack() as stack:
            stream = _open(path, member, stack)
            text = stack.enter_context(io.TextIOWrapper(stream, encoding="utf-8", newline="\n"))
            for line in lines_of_stream(text, name):
                yield line.removeprefix("\ufeff")
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist") from None
    except (*_BROKEN, EOFError) as error:
        raise RecipeError(f"{name} cannot be unpacked ({error}); is the file complete?") from error


def _open(path: Path, member: str | None, stack: ExitStack) -> Any:
    if member is None:
        return _decompressed(stack.enter_context(open(path, "rb")), path.name, stack)
    if zipfile.is_zipfile(path):
        archive = stack.enter_context(zipfile.ZipFile(path))
        if member not in archive.namelist():
            raise _no_member(path, member, archive.namelist())
        return _decompressed(stack.enter_context(archive.open(member)), member, stack)
    tar = stack.enter_context(tarfile.TarFile.open(path))
    others: list[str] = []
    # In order, so that the archive is read once and no further than needed.
    for entry in tar:
        name = entry.name.removeprefix("./")
        if name == member and entry.isfile():
            stream = tar.extractfile(entry)
            assert stream is not None
            return _decompressed(stack.enter_context(stream), member, stack)
        others.append(name)
    raise _no_member(path, member, others)


def _decompressed(stream: IO[bytes], name: str, stack: ExitStack) -> Any:
    opened: Any = {".gz": gzip.open, ".xz": lzma.open}.get(name[-3:])
    return stack.enter_context(opened(stream)) if opened else stream


def _no_member(path: Path, member: str, others: list[str]) -> RecipeError:
    shown = ", ".join(others[:8]) + (", ..." if len(others) > 8 else "")
    return RecipeError(f"{path} has no member {member} (it has: {shown})")
