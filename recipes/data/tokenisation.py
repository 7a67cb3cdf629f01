"""Words put together again that Moses' tokenizer took apart."""

from __future__ import annotations

import re
from collections.abc import Callable

from sacremoses import MosesDetokenizer

# A sign inside a word that the tokenizer marked, as in "twenty @-@ one"; ##AT## is an older mark.
_INSIDE = re.compile(r" (@|##AT##)(\S{1,3}?)\1 ")


def detokeniser(language: str) -> Callable[[str], str]:
    """Turns a tokenised line of ``language`` into text; Moses' escapes (``&apos;``) go too."""
    detokenizer = MosesDetokenizer(lang=language)

    def detokenise(line: str) -> str:
        words = _INSIDE.sub(r"\2", line).split()
        return str(detokenizer.detokenize(words, unescape=True))

    return detokenise
