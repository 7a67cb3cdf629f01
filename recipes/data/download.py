"""Downloads into a cache, through pooch: checked, continued where they stopped, never half there.

A download grows as ``NAME.part`` and is continued from there where the server takes ranges and
says which version of the file it serves. ``NAME`` appears once the checksum is right.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pooch
import requests
import urllib3

from recipes.errors import RecipeError
from recipes.schema.data import DownloadedFile
from recipes.text import usable

_TIMEOUT = (10, 60)  # seconds to connect, and between two blocks
_BLOCK = 1 << 18
_REPORT_EVERY = 10.0  # seconds


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
                return target, _download(name, file, cache_dir, say)
    found = _sha256(target)
    if file.sha256 is not None and found != file.sha256:
        raise RecipeError(
            f"{target}: SHA-256 is {found}, but the recipe expects {file.sha256}; remove the "
            f"file to download {file.address} again"
        )
    _tell_unknown(name, file, found, say)
    return target, found


@contextmanager
def _one_at_a_time(cache_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the cache's lock: two runs must not write to the same part."""
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


def _download(name: str, file: DownloadedFile, cache_dir: Path, say: Callable[[str], None]) -> str:
    """Download into the cache; returns the SHA-256."""
    target = cache_dir / name
    size = f" ({file_size(file.bytes)})" if file.bytes else ""
    say(f"  {file.address}{size} -> {target}")
    pooch.get_logger().setLevel("ERROR")
    downloader = ResumingDownloader(target, say)
    # Nothing is retried: without a network the error comes at once.
    try:
        pooch.retrieve(
            file.address,
            known_hash=file.sha256 and f"sha256:{file.sha256}",
            fname=name,
            path=cache_dir,
            downloader=downloader,
        )
    except requests.HTTPError as error:
        raise RecipeError(
            f"{file.address}: the server answers {error.response.status_code} "
            f"{error.response.reason}. {_by_hand(name, file, cache_dir)}"
        ) from error
    except CutOffError as error:
        raise RecipeError(f"{file.address}: {error}") from error
    except requests.RequestException as error:
        raise RecipeError(
            f"{file.address} cannot be reached ({_reason(error)}). "
            f"{_by_hand(name, file, cache_dir)}"
        ) from error
    except ValueError as error:  # pooch's name for a wrong checksum; requests has its own above
        raise RecipeError(
            f"{file.address}: the file that arrived has the SHA-256 {downloader.sha256}, but the "
            f"recipe expects {file.sha256}; it was not kept. {_by_hand(name, file, cache_dir)}"
        ) from error
    found = downloader.sha256
    _tell_unknown(name, file, found, say)
    return found


def _tell_unknown(name: str, file: DownloadedFile, found: str, say: Callable[[str], None]) -> None:
    if file.sha256 is None:
        say(
            f"  {name}: the recipe gives no checksum; SHA-256 {found}. Compare it with the "
            "publisher's, if there is one; so that every run refuses another file, add "
            f"--set data.files.{name}.sha256={found}, or write it into a copy of the recipe"
        )


def _by_hand(name: str, file: DownloadedFile, cache_dir: Path) -> str:
    checksum = f" with SHA-256 {file.sha256}" if file.sha256 else ""
    return (
        f"Expected file: {name}{checksum}. Get it on another machine and put it into {cache_dir} "
        "(--cache-dir), or give a folder that holds it, or the text itself as PREFIX.LANG, with "
        "--data-dir"
    )


def _reason(error: BaseException) -> str:
    """What the system says, out of the chain of messages that requests and urllib3 make."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.rpartition(": ")[2].rstrip(")").rstrip("\"'")


def _sha256(path: Path) -> str:
    return str(pooch.file_hash(str(path), alg="sha256"))


class CutOffError(RecipeError):
    """The connection ended before the file did."""


class ResumingDownloader:
    """pooch's downloader protocol: called with address, temporary file and pooch.

    Args:
        target: the file in the cache; ``TARGET.part`` holds what has arrived, and
            ``TARGET.part.version`` the entity tag or date the server gave it.
        say: prints one line.
    """

    def __init__(self, target: Path, say: Callable[[str], None]) -> None:
        self.name = target.name
        self.part = target.with_name(f"{target.name}.part")
        self.version = target.with_name(f"{target.name}.part.version")
        self.say = say
        self.sha256 = ""

    def __call__(self, url: str, output_file: str, pooch_: Any) -> None:
        """Write ``url`` to ``output_file``."""
        headers = {"Accept-Encoding": "identity"}
        have = self.part.stat().st_size if self.part.is_file() and self.version.is_file() else 0
        if have:
            headers["Range"] = f"bytes={have}-"
            # Unchanged since: the rest alone. Changed, or not able to: the whole file.
            headers["If-Range"] = self.version.read_text()
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == 416:  # nothing is left to send, or the file got shorter
                self._forget()
                return self(url, output_file, pooch_)
            response.raise_for_status()
            continued = response.status_code == 206
            if continued:
                self.say(f"  {self.name}: continues after {file_size(have)}")
            self._receive(response, have if continued else 0)
        self.sha256 = _sha256(self.part)
        os.replace(self.part, output_file)
        self._forget()
        return None

    def _receive(self, response: requests.Response, have: int) -> None:
        """Append (or write anew, if ``have`` is 0) what the server sends to the part."""
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        version = response.headers.get("ETag", "")
        if not version or version.startswith("W/"):  # If-Range takes strong tags alone
            version = response.headers.get("Last-Modified", "")
        try:
            if have == 0 and version:
                self.version.write_text(version)
            with open(self.part, "ab" if have else "wb") as file:
                arrived = self._copy(response, file, have, total)
        except urllib3.exceptions.HTTPError as error:
            raise self._cut_off(total, error) from error
        except OSError:
            self._forget()  # a full disk gets its space back
            raise
        if total is not None and arrived != total:
            raise self._cut_off(total)

    def _copy(self, response: requests.Response, file: Any, arrived: int, total: int | None) -> int:
        shown = time.monotonic()
        # The bytes as they were sent: some servers declare a .tgz as compressed text.
        for block in response.raw.stream(_BLOCK, decode_content=False):
            file.write(block)
            arrived += len(block)
            if time.monotonic() - shown > _REPORT_EVERY:
                shown = time.monotonic()
                self.say(f"  {self.name}: {file_size(arrived)}" + _of(total))
        return arrived

    def _cut_off(self, total: int | None, error: BaseException | None = None) -> CutOffError:
        arrived = self.part.stat().st_size if self.part.is_file() else 0
        why = f" ({_reason(error)})" if error else ""
        if self.version.is_file():
            then = f"run the same command again to continue from {self.part}"
        else:
            self._forget()
            then = "nothing was kept, as this server cannot continue; run the same command again"
        return CutOffError(
            f"the download was cut off after {file_size(arrived)}{_of(total)}{why}; {then}"
        )

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)


def _of(total: int | None) -> str:
    return f" of {file_size(total)}" if total else ""
