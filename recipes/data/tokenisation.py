"""Words put together again that Moses' tokenizer took apart."""

from __future__ import annotations

from collections.abc import Callable

from sacremoses import MosesDetokenizer


def detokeniser(language: str) -> Callable[[str], str]:
    """Turns a tokenised line of ``language`` into text; Moses' escapes (``&apos;``) go too."""
    detokenizer = MosesDetokenizer(lang=language)

    def detokenise(line: str) -> str:
        return str(detokenizer.detokenize(line.split(), unescape=True))

    return detokenise
