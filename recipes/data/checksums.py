"""Checksums of the files a work-dir was made from, so that a later run notices other ones."""

from __future__ import annotations

import json
from pathlib import Path

from recipes.errors import RecipeError
from recipes.text import write_text


class Checksums:
    """``checksums.json`` of a work-dir: file name to address and SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, name: str, address: str, sha256: str, file: Path) -> None:
        """Record the checksum of ``name``, or compare it with the recorded one.

        Raises:
            RecipeError: it is another file than the one this work-dir was made from.
        """
        known = json.loads(self.path.read_text()) if self.path.is_file() else {}
        entry = known.get(name)
        if entry is None or entry["address"] != address:
            known[name] = {"address": address, "sha256": sha256}
            write_text(self.path, json.dumps(known, indent=1) + "\n")
        elif entry["sha256"] != sha256:
            raise RecipeError(
                f"{file}: SHA-256 is {sha256}, but {self.path} was made with {entry['sha256']} "
                f"from the same address ({address}); take another --work-dir, or remove the entry "
                "to go on with the new file"
            )
