"""From token ids to the text that a reader would see."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from fairseq.data import Dictionary, data_utils, encoders

from fairseq_plugins.rewards.base import RewardOptions
from fairseq_plugins.rewards.outputs import Outputs

UNKNOWN_IN_HYPOTHESIS = "\ue000"
UNKNOWN_IN_REFERENCE = "\ue001"
"""What stands for ``<unk>``: different signs, so that it never matches, of one character each, so
that chrF finds no common part.  Unicode keeps both for private use, so no text has them."""


class Texts:
    """Hypotheses, references and sources of a batch as text, as ``--eval-bleu`` makes it.

    Raises:
        ValueError: a flag's value is unknown or the task has no dictionary for a side.
    """

    def __init__(self, options: RewardOptions) -> None:
        self._bpe = options.bpe
        try:
            data_utils.post_process("", options.bpe)
        except NotImplementedError as error:
            raise ValueError(
                f"--reward-remove-bpe must be sentencepiece, subword_nmt, '@@ ', letter or another "
                f"of fairseq's --post-process; got {options.bpe!r}"
            ) from error
        self._source = _dictionary(options.task, "source")
        self._target = _dictionary(options.task, "target")
        languages = [
            getattr(options.task.cfg, f"{side}_lang", None) for side in ("source", "target")
        ]
        self._of_source = _detokenizer(options, languages[::-1])
        self._of_target = _detokenizer(options, languages)

    def hypotheses(self, outputs: Outputs) -> list[str]:
        """One text for each row."""
        lengths = outputs.lengths.tolist()
        rows = [row[:length] for row, length in zip(outputs.tokens.tolist(), lengths, strict=True)]
        return self._texts(rows, self._target, self._of_target, UNKNOWN_IN_HYPOTHESIS)

    def references(self, outputs: Outputs) -> list[str]:
        """The reference of each row."""
        lengths = outputs.reference_lengths.tolist()
        references = outputs.references.tolist()
        rows = [row[:length] for row, length in zip(references, lengths, strict=True)]
        texts = self._texts(rows, self._target, self._of_target, UNKNOWN_IN_REFERENCE)
        return _repeat(texts, outputs.samples)

    def sources(self, outputs: Outputs) -> list[str]:
        """The source of each row."""
        pad = self._source.pad()
        rows = [[token for token in row if token != pad] for row in outputs.sources.tolist()]
        texts = self._texts(rows, self._source, self._of_source, UNKNOWN_IN_REFERENCE)
        return _repeat(texts, outputs.samples)

    def _texts(
        self, rows: list[list[int]], dictionary: Dictionary, detokenizer: Any, unknown: str
    ) -> list[str]:
        texts = [dictionary.string(row, self._bpe, unk_string=unknown) for row in rows]
        return texts if detokenizer is None else [detokenizer.decode(text) for text in texts]


def _repeat(texts: list[str], samples: int) -> list[str]:
    return [text for text in texts for _ in range(samples)]


def _dictionary(task: Any, side: str) -> Dictionary:
    dictionary = getattr(task, f"{side}_dictionary", None)
    if dictionary is None:
        raise ValueError(
            f"--reward-level text needs a task with a {side} dictionary, such as --task "
            f"translation; {type(task).__name__} has none"
        )
    return dictionary


def _detokenizer(options: RewardOptions, languages: list[str | None]) -> Any:
    """A tokenizer of fairseq's whose text is in the second language."""
    try:
        given = json.loads(options.detokenizer_args)
    except json.JSONDecodeError as error:
        raise ValueError(
            '--reward-detok-args must be a JSON object such as \'{"target_lang": "en"}\'; '
            f"got {options.detokenizer_args!r} ({error})"
        ) from error
    if not isinstance(given, dict):
        raise ValueError(f"--reward-detok-args must be a JSON object; got {given!r}")
    known = {
        name: language
        for name, language in zip(("source_lang", "target_lang"), languages, strict=True)
        if language is not None
    }
    try:
        return encoders.build_tokenizer(
            Namespace(**{**known, **given, "tokenizer": options.detokenizer})
        )
    except KeyError as error:
        raise ValueError(
            "--reward-detok must be space, moses, nltk or another of fairseq's --tokenizer; "
            f"got {options.detokenizer!r}"
        ) from error
