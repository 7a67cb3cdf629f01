"""Downloads into a cache, through pooch: a file gets its name once its checksum is right."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pooch
import requests
import urllib3
from rich.progress import wrap_file

from recipes.errors import RecipeError
from recipes.schema.recipe import DownloadedFile
from recipes.text import Say

_TIMEOUT = (10, 60)  # seconds to connect, and between two blocks
_BLOCK = 1 << 18


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/fairseq-sequence-training``, below ``~/.cache`` if that is not set."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fairseq-sequence-training"


def fetch(name: str, file: DownloadedFile, cache_dir: Path, say: Say) -> tuple[Path, str]:
    """The file in the cache, downloaded if it is not there; and its SHA-256.

    Raises:
        RecipeError: no network, an error of the server, a download that was cut off, a full disk,
            or a checksum that is not the recipe's.
    """
    target = cache_dir / name
    if not target.is_file():
        with _one_at_a_time(cache_dir, say):
            if not target.is_file():
                _download(target, file, say)
    found = str(pooch.file_hash(str(target), alg="sha256"))
    if file.sha256 is None:
        say(
            f"  {name}: the recipe gives no checksum; SHA-256 {found}. Compare it with the "
            "publisher's, if there is one; so that every run refuses another file, add "
            f"--set data.files.{name}.sha256={found}, or write it into a copy of the recipe"
        )
    elif found != file.sha256:
        raise RecipeError(
            f"{target}: SHA-256 is {found}, but the recipe expects {file.sha256}; remove the "
            f"file to download {file.address} again"
        )
    return target, found


@contextmanager
def _one_at_a_time(cache_dir: Path, say: Say) -> Iterator[None]:
    """Hold the cache's lock, so that two runs do not download the same."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    folder = os.open(cache_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"  waits for another run's download into {cache_dir}")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _download(target: Path, file: DownloadedFile, say: Say) -> None:
    say(f"  {file.address} -> {target}")
    pooch.get_logger().setLevel("ERROR")
    checksum = file.sha256 and f"sha256:{file.sha256}"
    # Nothing is retried: without a network the error comes at once.
    try:
        pooch.retrieve(file.address, checksum, target.name, target.parent, downloader=_receive)
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        expected = f" with SHA-256 {file.sha256}" if file.sha256 else ""
        raise RecipeError(
            f"{file.address}: {_reason(error)}. Nothing was kept; run the same command again. "
            f"Expected file: {target.name}{expected}. Get it on another machine and put it into "
            f"{target.parent} (--cache-dir), or give a folder that holds it, or the text itself as "
            "PREFIX.LANG, with --data-dir"
        ) from error
    except OSError as error:
        error.filename = error.filename or str(target)
        raise


def _reason(error: Exception) -> str:
    """What went wrong, out of the chain of messages that requests, urllib3 and pooch make."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    system = text.rpartition(": ")[2].rstrip(")").rstrip("\"'")
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.RequestException):
        return f"cannot be reached ({system})"
    if isinstance(error, urllib3.exceptions.HTTPError):
        return f"the download was cut off ({system})"
    return f"the file that arrived is not the recipe's ({system})"  # pooch: a wrong checksum


def _receive(address: str, output_file: str, _: Any) -> None:
    """pooch's downloader, but for the bytes as they were sent: some servers declare a .tgz as
    compressed text, which pooch's own would unpack."""
    headers = {"Accept-Encoding": "identity"}
    with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0))
        arrived = 0
        with open(output_file, "wb") as file:
            shown = wrap_file(response.raw, total, description="", transient=True)
            with shown as body:
                while block := body.read(_BLOCK):
                    file.write(block)
                    arrived += len(block)
        if arrived < total:  # older versions of urllib3 do not look
            raise urllib3.exceptions.IncompleteRead(arrived, total - arrived)
