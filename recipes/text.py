"""Plain text on disk: reading, checking and writing parallel files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from recipes.errors import RecipeError


def read_lines(path: Path | str) -> list[str]:
    """Lines of a UTF-8 file, split at newlines only (never at U+2028 and the like)."""
    return list(iterate_lines(path))


def iterate_lines(path: Path | str) -> Iterator[str]:
    """The same lines one by one, for files that do not fit into memory."""
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text: {error}") from error


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to a temporary name beside ``path``, then rename it."""
    write_bytes(path, content.encode("utf-8"))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write one line each, ended by a newline; atomic like :func:`write_text`."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to a temporary name beside ``path``, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp makes the file private; give it the permissions open() would.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of the files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode())
        with open(file, "rb") as stream:
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
