"""Pairs that are taken out of the training text, and how many for which reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import ClassVar

from recipes.data.formats import Pair
from recipes.schema.recipe import Cleaning


class Cleaner:
    """Passes on the pairs that the settings allow, in their order, and counts the others.

    A pair is counted once, under the first reason that applies, in the order of ``REASONS``.

    Attributes:
        read: pairs seen so far.
        removed: number of pairs taken out, by reason.
    """

    REASONS: ClassVar = {
        "empty": "with an empty side",
        "identical": "with equal sides",
        "max_length": "longer than {max_length} words",
        "max_length_ratio": "with a length ratio above {max_length_ratio}",
        "duplicates": "that occur again",
    }

    def __init__(self, settings: Cleaning) -> None:
        self.settings = settings
        self.read = 0
        self.removed: Counter[str] = Counter()
        self._seen: set[bytes] = set()

    def __call__(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """The pairs that stay."""
        for source, references in pairs:
            self.read += 1
            reason = self._reason(source, references[0])
            if reason is None:
                yield source, references
            else:
                self.removed[reason] += 1

    def _reason(self, source: str, target: str) -> str | None:
        settings = self.settings
        lengths = len(source.split()), len(target.split())
        if 0 in lengths:
            # The ratio of lengths has no meaning either.
            return "empty" if settings.empty else None
        if settings.identical and source.strip() == target.strip():
            return "identical"
        if settings.max_length is not None and max(lengths) > settings.max_length:
            return "max_length"
        ratio = max(lengths) / min(lengths)
        if settings.max_length_ratio is not None and ratio > settings.max_length_ratio:
            return "max_length_ratio"
        if settings.duplicates:
            # 16 bytes a pair, so that millions fit into memory.
            pair = f"{source}\n{target}".encode()
            key = hashlib.blake2b(pair, digest_size=16).digest()
            if key in self._seen:
                return "duplicates"
            self._seen.add(key)
        return None

    def counts(self) -> dict[str, int]:
        """Pairs read, taken out by reason, and kept."""
        removed = {reason: self.removed[reason] for reason in self.REASONS if self.removed[reason]}
        return {"read": self.read, **removed, "kept": self.read - self.removed.total()}

    def summary(self) -> str:
        """The counts in one line."""
        counts = self.counts()
        found = (f"{counts[r]:,} {text}" for r, text in self.REASONS.items() if r in counts)
        removed = ", ".join(found).format_map(vars(self.settings))
        return f"{counts['read']:,} pairs, taken out: {removed or 'none'}; {counts['kept']:,} kept"
