"""A transformer with random weights whose outputs end where a translation would."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from fairseq import options
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.transformer import TransformerDecoder, TransformerModel
from torch import Tensor

from benchmarks.loss_functions import END, PADDING, word_ids
from benchmarks.output_lengths import log_odds_of_ending

LAYERS, UNITS = 3, 256


class EndingDecoder(TransformerDecoder):
    """Has imposed probabilities of ``</s>``: an output's length is normal around its source's.

    The other tokens keep those of the random weights.  Nothing is done that depends on who decodes:
    the same rows at the same step end with the same probability.
    """

    def forward(self, prev_output_tokens: Tensor, encoder_out: Any = None, **keywords: Any) -> Any:
        logits, extra = super().forward(prev_output_tokens, encoder_out=encoder_out, **keywords)
        mean = (~encoder_out["encoder_padding_mask"][0]).sum(1).to(logits)
        step = prev_output_tokens.size(1)
        hazard = self.hazards[step].index_select(0, mean.long())
        # Of the random weights' logits, the logarithm of their sum hardly varies.
        logits[:, -1, END] = hazard + math.log(logits.size(2))
        return logits, extra

    def set_hazards(self, longest: int) -> None:
        """``[step, source length]``: log-odds that an output of so many tokens ends here."""
        self.register_buffer("hazards", log_odds_of_ending(longest))


class EndingTransformer(TransformerModel):
    @classmethod
    def build_decoder(cls, cfg: Any, tgt_dict: Dictionary, embed_tokens: Any) -> EndingDecoder:
        return EndingDecoder(cfg, tgt_dict, embed_tokens)


class _Task:
    """What building a model asks of a task."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.source_dictionary = self.target_dictionary = dictionary


def dictionary_of(vocab: int) -> Dictionary:
    """``vocab`` symbols, fairseq's special ones included."""
    dictionary = Dictionary()
    for word in range(vocab - len(dictionary)):
        dictionary.add_symbol(f"w{word}")
    return dictionary


def build_model(dictionary: Dictionary, longest_source: int) -> EndingTransformer:
    """In evaluation mode; the architecture of the Multi30k recipe."""
    flags = ["unused", "--arch", "transformer", "--share-all-embeddings", "--cpu"]
    for side in ("encoder", "decoder"):
        flags += [f"--{side}-layers", str(LAYERS), f"--{side}-attention-heads", "4"]
        flags += [f"--{side}-embed-dim", str(UNITS), f"--{side}-ffn-embed-dim", str(4 * UNITS)]
    parser = options.get_training_parser()
    config = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, flags))
    torch.manual_seed(0)
    model = EndingTransformer.build_model(config.model, _Task(dictionary)).eval()
    model.decoder.set_hazards(longest_source)
    return model


def draw_sources(lengths: Sequence[int], vocab: int) -> dict[str, Any]:
    """A batch of sources, padded on the left and sorted by length as fairseq's collater does."""
    lengths = sorted(lengths, reverse=True)
    words = word_ids((len(lengths), lengths[0]), vocab, torch.Generator().manual_seed(0))
    src_lengths = torch.tensor(lengths)
    first = (lengths[0] - src_lengths).unsqueeze(1)
    words = words.masked_fill(torch.arange(lengths[0]) < first, PADDING)
    words[:, -1] = END
    return {
        "id": torch.arange(len(lengths)),
        "net_input": {
            "src_tokens": words,
            "src_lengths": src_lengths,
            "prev_output_tokens": torch.full((len(lengths), 1), END),
        },
    }
