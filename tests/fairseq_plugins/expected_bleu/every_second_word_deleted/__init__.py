"""A ``--user-dir``: the plugin, and noise of ``--task translation_lev`` without chance.

What ``--noise`` draws for a sentence depends on its batch; this depends on the sentence alone.
"""

import torch
from fairseq.data import data_utils
from fairseq.tasks.translation_lev import TranslationLevenshteinTask
from torch import Tensor

import fairseq_plugins  # noqa: F401  (registers the criterions)


def every_second_word_deleted(task: TranslationLevenshteinTask, target: Tensor) -> Tensor:
    pad = task.target_dictionary.pad()
    rows = [row[row.ne(pad)] for row in target]
    return data_utils.collate_tokens(
        [torch.cat([row[:1], row[1:-1:2], row[-1:]]) for row in rows], pad
    )


TranslationLevenshteinTask.inject_noise = every_second_word_deleted
