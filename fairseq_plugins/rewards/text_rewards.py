"""Rewards of detokenised text: sacrebleu's metrics of single sentences."""

from __future__ import annotations

import functools
import json
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch
from fairseq.data import Dictionary, data_utils, encoders
from sacrebleu.metrics import BLEU, CHRF, TER
from torch import Tensor

from criterions import BleuStatistics
from fairseq_plugins.rewards.reward import REWARDS, Outputs, Reward, RewardOptions
from fairseq_plugins.rewards.worker_pool import Measure, WorkerPool

UNKNOWN_IN_HYPOTHESIS = "\ue000"
UNKNOWN_IN_REFERENCE = "\ue001"
"""What stands for ``<unk>``: two different characters, so that it never matches.  Unicode keeps
both for private use, so no text has them."""


class Texts:
    """Converts token ids into the text that a reader sees, as fairseq's ``--eval-bleu`` does.

    Raises:
        ValueError: a flag's value is unknown or the task has no dictionary for a side.
    """

    def __init__(self, options: RewardOptions) -> None:
        self._bpe = options.reward_remove_bpe
        try:
            data_utils.post_process("", options.reward_remove_bpe)
        except NotImplementedError as error:
            raise ValueError(
                f"--reward-remove-bpe must be sentencepiece, subword_nmt, '@@ ', letter or another "
                f"of fairseq's --post-process; got {options.reward_remove_bpe!r}"
            ) from error
        self._source = _dictionary(options.task, "source")
        self._target = _dictionary(options.task, "target")
        cfg = options.task.cfg
        languages = [getattr(cfg, f"{side}_lang", None) for side in ("source", "target")]
        self._source_detokenizer = _detokenizer(options, *languages[::-1])
        self._target_detokenizer = _detokenizer(options, *languages)

    def hypotheses(self, outputs: Outputs) -> list[str]:
        """``batch * samples`` texts."""
        return self._of_target(outputs.tokens, outputs.lengths, UNKNOWN_IN_HYPOTHESIS)

    def references(self, outputs: Outputs) -> list[str]:
        """``batch * samples`` texts: the reference of each output."""
        texts = self._of_target(outputs.references, outputs.reference_lengths, UNKNOWN_IN_REFERENCE)
        return [text for text in texts for _ in range(outputs.samples)]

    def sources(self, outputs: Outputs) -> list[str]:
        """``batch * samples`` texts: the source of each output."""
        pad = self._source.pad()
        ids = [[token for token in row if token != pad] for row in outputs.sources.tolist()]
        texts = self._texts(ids, self._source, self._source_detokenizer, UNKNOWN_IN_REFERENCE)
        return [text for text in texts for _ in range(outputs.samples)]

    def _of_target(self, tokens: Tensor, lengths: Tensor, unknown: str) -> list[str]:
        ids = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        return self._texts(ids, self._target, self._target_detokenizer, unknown)

    def _texts(
        self, ids: list[list[int]], dictionary: Dictionary, detokenizer: Any, unknown: str
    ) -> list[str]:
        texts = [dictionary.string(row, self._bpe, unk_string=unknown) for row in ids]
        return texts if detokenizer is None else [detokenizer.decode(text) for text in texts]


def _dictionary(task: Any, side: str) -> Dictionary:
    dictionary = getattr(task, f"{side}_dictionary", None)
    if dictionary is None:
        raise ValueError(
            f"--reward-level text needs a task with a {side} dictionary, such as --task "
            f"translation; {type(task).__name__} has none"
        )
    return dictionary


def _detokenizer(options: RewardOptions, source_lang: str | None, target_lang: str | None) -> Any:
    """One of fairseq's tokenizers, for text in ``target_lang``."""
    try:
        given = json.loads(options.reward_detok_args)
    except json.JSONDecodeError:
        given = options.reward_detok_args
    if not isinstance(given, dict):
        raise ValueError(
            '--reward-detok-args must be a JSON object such as \'{"target_lang": "en"}\'; '
            f"got {given!r}"
        )
    languages = {"source_lang": source_lang, "target_lang": target_lang}
    known = {name: language for name, language in languages.items() if language is not None}
    try:
        return encoders.build_tokenizer(
            Namespace(**{**known, **given, "tokenizer": options.reward_detok})
        )
    except KeyError as error:
        raise ValueError(
            "--reward-detok must be space, moses, nltk or another of fairseq's --tokenizer; "
            f"got {options.reward_detok!r}"
        ) from error


class _PairMeasure:
    """Converts ids to text and measures pairs, in ``--reward-workers`` processes.

    ``measure``: picklable function of hypothesis and reference that returns numbers.
    """

    def __init__(self, options: RewardOptions, measure: Measure) -> None:
        self._texts = Texts(options)
        self._pool = WorkerPool(measure, options.reward_workers, f"--reward {options.reward}")

    def __call__(self, outputs: Outputs) -> Tensor:
        """``[batch * samples, numbers]``, float64, on the host."""
        measured = self._pool(self._texts.hypotheses(outputs), self._texts.references(outputs))
        return torch.tensor(measured, dtype=torch.float64)


class TextReward(Reward):
    """A number of each hypothesis and its reference.

    ``measure``: picklable function of the two that returns it in a list.
    """

    measure: Measure

    def __init__(self, options: RewardOptions) -> None:
        super().__init__(options)
        self._pairs = _PairMeasure(options, self.measure)

    def __call__(self, outputs: Outputs) -> Tensor:
        return self._pairs(outputs)[:, 0].to(outputs.tokens.device, torch.float32)


@functools.cache
def _bleu(max_order: int, tokenizer: str) -> BLEU:
    # Smoothing would change the counts; the effective order matters to the score alone, but
    # without it sacrebleu warns at every sentence.
    return BLEU(
        smooth_method="none", effective_order=True, max_ngram_order=max_order, tokenize=tokenizer
    )


def bleu_statistics(
    hypothesis: str, reference: str, *, max_order: int, tokenizer: str
) -> Sequence[float]:
    """sacrebleu's counts and totals of each order, and the two lengths."""
    score = _bleu(max_order, tokenizer).sentence_score(hypothesis, [reference])
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


class TextStatistics:
    """BLEU's statistics of each output, counted by sacrebleu with its tokenisation."""

    def __init__(self, options: RewardOptions) -> None:
        tokenizer = options.reward_sacrebleu_tokenizer
        if tokenizer not in BLEU.TOKENIZERS:
            raise ValueError(
                f"--reward-sacrebleu-tokenizer must be one of {', '.join(BLEU.TOKENIZERS)}; "
                f"got {tokenizer!r}"
            )
        self._orders = options.max_order
        measure = functools.partial(bleu_statistics, max_order=self._orders, tokenizer=tokenizer)
        self._pairs = _PairMeasure(options, measure)

    def __call__(self, outputs: Outputs) -> BleuStatistics:
        """Matches and totals ``[batch * samples, orders]``, lengths ``[batch * samples]``."""
        sizes = [self._orders, self._orders, 1, 1]
        matches, totals, *lengths = self._pairs(outputs).split(sizes, dim=1)
        return BleuStatistics(matches, totals, *(length.squeeze(1) for length in lengths))


_chrf = functools.cache(CHRF)
_ter = functools.cache(TER)


def chrf(hypothesis: str, reference: str) -> Sequence[float]:
    """chrF2 (Popović 2015), 0 to 1."""
    return [_chrf().sentence_score(hypothesis, [reference]).score / 100]


def one_minus_ter(hypothesis: str, reference: str) -> Sequence[float]:
    """1 - TER (Snover et al. 2006): 1 at most, and negative for more edits than words."""
    return [1 - _ter().sentence_score(hypothesis, [reference]).score / 100]


@REWARDS["text"].register("chrf")
class Chrf(TextReward):
    """sacrebleu's chrF2 / 100, of text."""

    measure = staticmethod(chrf)


@REWARDS["text"].register("ter")
class OneMinusTer(TextReward):
    """1 - sacrebleu's TER / 100, of text."""

    measure = staticmethod(one_minus_ter)
