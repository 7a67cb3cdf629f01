"""Text on disk: reading and checking parallel files; files that appear when they are complete."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

from recipes.errors import RecipeError

Say = Callable[[str], None]  # prints one line
_LONGEST_LINE = 10_000_000  # characters; a whole TMX file may be one line


def read_lines(path: Path | str) -> list[str]:
    """Lines of a UTF-8 file, split at newlines only (never at U+2028 and the like)."""
    return list(iterate_lines(path))


def iterate_lines(path: Path | str) -> Iterator[str]:
    """The same lines one by one, for files that do not fit into memory."""
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            yield from lines_of_stream(file, str(path))
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist") from None


def lines_of_stream(file: TextIO, name: str) -> Iterator[str]:
    """Lines without their ends; a line that would fill the memory is an error, and so are bytes
    that are not UTF-8."""
    try:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE and not line.endswith("\n"):
                raise RecipeError(f"{name}: line {number} has more than {_LONGEST_LINE} characters")
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{name} is not UTF-8 text: {error}") from error


@contextmanager
def replaced(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary files beside ``paths``; all are renamed to these at the end, or none is left.

    A symbolic link of that name is replaced, not followed.
    """
    temporaries: list[Path] = []
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
            temporaries.append(Path(name))
        yield temporaries
        # mkstemp makes files private; give them the permissions open() would.
        mask = os.umask(0)
        os.umask(mask)
        for temporary, path in zip(temporaries, paths, strict=True):
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
    except BaseException as error:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(paths[0])  # of a full disk the system names no file
        raise


@contextmanager
def written_together(paths: Sequence[Path]) -> Iterator[list[TextIO]]:
    """Text files to write to; see :func:`replaced`."""
    with replaced(paths) as temporaries, ExitStack() as stack:
        yield [
            stack.enter_context(open(path, "w", encoding="utf-8", newline="\n"))
            for path in temporaries
        ]


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to a temporary name beside ``path``, then rename it."""
    with written_together([path]) as (file,):
        file.write(content)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write one line each, ended by a newline; atomic like :func:`write_text`."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    found = path.stat()
    return _hash(path, found.st_ino, found.st_size, found.st_mtime_ns)


@cache  # the output of a stage is the input of others
def _hash(path: Path, *version: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_parallel(folder: Path, prefix: str, languages: tuple[str, str]) -> int:
    """Check that ``prefix`` exists in both languages, line by line; return the number of lines.

    Raises:
        RecipeError: a file is missing, the sides differ in length, or a line is empty.
    """
    counts = {}
    for lang in languages:
        path = folder / f"{prefix}.{lang}"
        if not path.is_file():
            raise RecipeError(
                f"{path} does not exist; --data-dir must hold {prefix}.{languages[0]} "
                f"and {prefix}.{languages[1]}"
            )
        counts[lang] = 0
        for number, line in enumerate(iterate_lines(path), start=1):
            counts[lang] = number
            if not line.strip():
                raise RecipeError(f"{path}: line {number} is empty; remove the pair in both files")
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise RecipeError(
            f"{folder / prefix}: both sides must have the same number of lines, above 0: {counts}"
        )
    return counts[languages[0]]
