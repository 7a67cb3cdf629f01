"""Outputs, a task and dictionaries for tests of rewards, without a corpus."""

from argparse import Namespace
from collections.abc import Sequence

import torch
from fairseq.data import Dictionary

from fairseq_plugins.rewards import Outputs, Reward, RewardOptions, build_reward


def dictionary_of(*words: str) -> Dictionary:
    dictionary = Dictionary()
    for word in words:
        dictionary.add_symbol(word)
    return dictionary


def task_of(target: Dictionary, source: Dictionary | None = None) -> Namespace:
    """What rewards ask of a translation task."""
    source = target if source is None else source
    languages = Namespace(source_lang="de", target_lang="en")
    return Namespace(source_dictionary=source, target_dictionary=target, cfg=languages)


def reward_of(name: str, level: str, task: Namespace, **flags: object) -> Reward:
    """``--reward NAME --reward-level LEVEL``, and other flags."""
    return build_reward(RewardOptions(task, name, level, **flags))


def padded(
    rows: Sequence[Sequence[int]], dictionary: Dictionary, left: bool = False
) -> torch.Tensor:
    """Sentences with ``</s>`` and padding."""
    longest = max(map(len, rows)) + 1
    padded_rows = []
    for row in rows:
        padding = [dictionary.pad()] * (longest - len(row) - 1)
        sentence = [*row, dictionary.eos()]
        padded_rows.append([*padding, *sentence] if left else [*sentence, *padding])
    return torch.tensor(padded_rows)


def outputs_of(
    hypotheses: Sequence[str],
    references: Sequence[str],
    dictionary: Dictionary,
    *,
    sources: Sequence[str] | None = None,
    source_dictionary: Dictionary | None = None,
) -> Outputs:
    """Sentences of words of the dictionary, blank-separated; all others become ``<unk>``."""
    source_dictionary = dictionary if source_dictionary is None else source_dictionary
    sources = references if sources is None else sources

    def ids(sentences: Sequence[str], words: Dictionary) -> list[list[int]]:
        return [[words.index(word) for word in sentence.split()] for sentence in sentences]

    emitted, wanted = ids(hypotheses, dictionary), ids(references, dictionary)
    return Outputs(
        tokens=padded(emitted, dictionary),
        lengths=torch.tensor([len(row) for row in emitted]),
        references=padded(wanted, dictionary),
        reference_lengths=torch.tensor([len(row) for row in wanted]),
        sources=padded(ids(sources, source_dictionary), source_dictionary, left=True),
        samples=len(hypotheses) // len(references),
    )
