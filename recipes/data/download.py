"""Downloads into a cache, through pooch: a file gets its name once its checksum is right."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pooch
import requests
import urllib3
from rich.progress import wrap_file

from recipes.errors import RecipeError
from recipes.schema.data import DownloadedFile
from recipes.text import usable, write_text

_TIMEOUT = (10, 60)  # seconds to connect, and between two blocks
_BLOCK = 1 << 18


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/fairseq-sequence-training``, below ``~/.cache`` if that is not set."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fairseq-sequence-training"


def file_size(count: int) -> str:
    """``count`` bytes in words."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def fetch(
    name: str, file: DownloadedFile, cache_dir: Path, say: Callable[[str], None]
) -> tuple[Path, str]:
    """The file in the cache, downloaded if it is not there; and its SHA-256.

    Raises:
        RecipeError: no network, an error of the server, a download that was cut off, a full disk,
            or a checksum that is not the recipe's.
    """
    target = cache_dir / name
    if not target.is_file():
        with usable(cache_dir, "--cache-dir"), _one_at_a_time(cache_dir, say):
            if not target.is_file():
                _download(name, file, cache_dir, say)
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
def _one_at_a_time(cache_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
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


def _download(name: str, file: DownloadedFile, cache_dir: Path, say: Callable[[str], None]) -> None:
    size = f" ({file_size(file.bytes)})" if file.bytes else ""
    say(f"  {file.address}{size} -> {cache_dir / name}")
    pooch.get_logger().setLevel("ERROR")
    checksum = f" with SHA-256 {file.sha256}" if file.sha256 else ""
    by_hand = (
        f"Expected file: {name}{checksum}. Get it on another machine and put it into {cache_dir} "
        "(--cache-dir), or give a folder that holds it, or the text itself as PREFIX.LANG, with "
        "--data-dir"
    )
    # Nothing is retried: without a network the error comes at once.
    try:
        pooch.retrieve(
            file.address,
            known_hash=file.sha256 and f"sha256:{file.sha256}",
            fname=name,
            path=cache_dir,
            downloader=_receive,
        )
    except requests.HTTPError as error:
        answer = f"{error.response.status_code} {error.response.reason}"
        raise RecipeError(f"{file.address}: the server answers {answer}. {by_hand}") from error
    except requests.RequestException as error:
        reason = f"{file.address} cannot be reached ({_reason(error)})"
        raise RecipeError(f"{reason}. {by_hand}") from error
    except urllib3.exceptions.HTTPError as error:
        raise RecipeError(
            f"{file.address}: the download was cut off ({_reason(error)}), nothing was kept; run "
            f"the same command again. {by_hand}"
        ) from error
    except ValueError as error:  # pooch's name for a wrong checksum; requests has its own above
        raise RecipeError(
            f"{file.address}: the file that arrived is not the recipe's, whose SHA-256 is "
            f"{file.sha256} ({_reason(error)}); it was not kept. {by_hand}"
        ) from error


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


def _reason(error: BaseException) -> str:
    """What the system says, out of the chain of messages that requests and urllib3 make."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.rpartition(": ")[2].rstrip(")").rstrip("\"'")


def check_recorded(record: Path, name: str, address: str, sha256: str, file: Path) -> None:
    """Note the checksum of ``name`` in ``record``, or compare it with the one that is there.

    Args:
        record: ``checksums.json`` of a work-dir: file name to address and SHA-256.

    Raises:
        RecipeError: it is another file than the one this work-dir was made from.
    """
    known = json.loads(record.read_text()) if record.is_file() else {}
    entry = known.get(name)
    if entry is None or entry["address"] != address:
        known[name] = {"address": address, "sha256": sha256}
        write_text(record, json.dumps(known, indent=1) + "\n")
    elif entry["sha256"] != sha256:
        raise RecipeError(
            f"{file}: SHA-256 is {sha256}, but {record} was made with {entry['sha256']} from the "
            f"same address ({address}); take another --work-dir, or remove the entry to go on with "
            "the new file"
        )
