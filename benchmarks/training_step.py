"""Whole training steps of a small transformer, through fairseq's own task, model and optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from fairseq import options, tasks, utils
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import FairseqOptimizer, build_optimizer
from fairseq.tasks import FairseqTask
from torch import Tensor

from benchmarks.report import Sizes

PADDING, END = 1, 2  # fairseq's dictionary
USER_DIR = Path(__file__).resolve().parent.parent / "fairseq_plugins"
LAYERS, UNITS, HEADS = 3, 256, 4
SIZE = []
for side in ("encoder", "decoder"):
    SIZE += [f"--{side}-layers", str(LAYERS), f"--{side}-attention-heads", str(HEADS)]
    SIZE += [f"--{side}-embed-dim", str(UNITS), f"--{side}-ffn-embed-dim", str(4 * UNITS)]
TRANSFORMER = ["--arch", "transformer", "--share-all-embeddings", *SIZE]
"""The size of the Multi30k recipe's."""

SPREAD = 0.2
"""Standard deviation of an output's length, in multiples of the source's."""

_USUAL_WORD = 4
_ITS_ODDS = 0.25
"""Odds of one word against all others: were all equally rare, greedy outputs would end where
``</s>`` has the probability of a rare word, far too early."""


def devices() -> list[torch.device]:
    """The CPU, and an accelerator where there is one."""
    names = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [torch.device(name) for name in names]


def draw_sample(sizes: Sizes) -> dict[str, Any]:
    """A batch as fairseq's collater makes it: of similar lengths, the longest first.

    All have at least two thirds of the longest's tokens, ``</s>`` included, and a source has as
    many as its target.  Words follow Zipf's law, so that n-grams repeat as often as in text.
    """
    generator = torch.Generator().manual_seed(0)
    batch, length = sizes.batch, sizes.length
    lengths = torch.randint(2 * length // 3, length + 1, (batch, 1), generator=generator)
    lengths[0] = length
    lengths = lengths.sort(dim=0, descending=True).values
    columns = torch.arange(length)
    frequencies = 1.0 / torch.arange(1, sizes.vocab - 3)
    drawn = torch.multinomial(
        frequencies, 2 * batch * length, replacement=True, generator=generator
    )
    source, target = 4 + drawn.view(2, batch, length)
    source[:, -1] = END
    source = source.masked_fill(columns < length - lengths, PADDING)  # on the left
    target = target.masked_fill(columns == lengths - 1, END)
    fed = target.roll(1, dims=1)
    fed[:, 0] = END
    past_end = columns >= lengths
    return {
        "id": torch.arange(batch),
        "nsentences": batch,
        "ntokens": int(lengths.sum()),
        "net_input": {
            "src_tokens": source,
            "src_lengths": lengths.squeeze(1),
            "prev_output_tokens": fed.masked_fill(past_end, PADDING),
        },
        "target": target.masked_fill(past_end, PADDING),
    }


@dataclass(frozen=True)
class Step:
    """One training step: forward, backward, clipping, Adam.

    ``update``: its number, for schedules.
    """

    task: FairseqTask
    model: torch.nn.Module
    criterion: torch.nn.Module
    optimizer: FairseqOptimizer
    sample: dict[str, Any]
    update: int = 1

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        _, sample_size, _ = self.task.train_step(
            self.sample, self.model, self.criterion, self.optimizer, update_num=self.update
        )
        self.optimizer.multiply_grads(1.0 / float(sample_size))
        self.optimizer.clip_grad_norm(1.0)
        self.optimizer.step()


def training_steps(
    criterions: Mapping[str, Sequence[str]],
    sizes: Sizes,
    device: torch.device,
    model_flags: Sequence[str] = TRANSFORMER,
    update: int = 1,
) -> dict[str, Step]:
    """A step per criterion, all on one batch, and of one ``--arch`` on one model and optimiser.

    The learning rate is 0: Adam does its work, but all steps meet the same weights.

    Args:
        criterions: name -> fairseq flags, beginning with ``--criterion``; those that name another
            ``--arch`` than the first have the weights of its model where both have them.
        sizes: of the batch.
        device: where the model lives.
        model_flags: those of the model, before the criterion's.
        update: the steps' number, for schedules.
    """
    sample = draw_sample(sizes)
    if device.type == "cuda":
        sample = utils.move_to_cuda(sample, device)
    dictionary = Dictionary()
    for word in range(sizes.vocab - len(dictionary)):
        dictionary.add_symbol(f"w{word}")
    models: dict[str, torch.nn.Module] = {}
    optimizers: dict[str, FairseqOptimizer] = {}
    steps: dict[str, Step] = {}
    with TemporaryDirectory() as folder:
        for language in ("de", "en"):
            dictionary.save(str(Path(folder, f"dict.{language}.txt")))
        common = [folder, "--task", "translation", "--source-lang", "de", "--target-lang", "en"]
        common += ["--user-dir", str(USER_DIR), "--dropout", "0.3", *model_flags]
        common += ["--optimizer", "adam", "--lr", "0.0001", "--clip-norm", "1.0"]
        if device.type == "cpu":
            common.append("--cpu")
        for name, flags in criterions.items():
            parser = options.get_training_parser()
            parsed = options.parse_args_and_arch(parser, [*common, *flags])
            configuration = convert_namespace_to_omegaconf(parsed)
            if not steps:
                utils.import_user_module(configuration.common)
                task = tasks.setup_task(configuration.task)
            arch = configuration.model.arch
            if arch not in models:
                torch.manual_seed(0)
                model = task.build_model(configuration.model).to(device)
                if models:
                    model.load_state_dict(next(iter(models.values())).state_dict())
                learning = [value for value in model.parameters() if value.requires_grad]
                models[arch] = model
                optimizers[arch] = build_optimizer(configuration.optimizer, learning)
                optimizers[arch].set_lr(0.0)
            criterion = task.build_criterion(configuration.criterion).to(device)
            steps[name] = Step(task, models[arch], criterion, optimizers[arch], sample, update)
    return steps


def log_odds_of_ending(longest: int) -> Tensor:
    """That an output ends after so many tokens, if it has not yet: ``[tokens, mean length]``.

    The lengths of outputs are normal around ``mean length``, rounded.

    Args:
        longest: the largest mean length.
    """
    tokens = torch.arange(4 * longest + 20, dtype=torch.float64).unsqueeze(1)
    means = torch.arange(longest + 1, dtype=torch.float64)
    lengths = torch.distributions.Normal(means, SPREAD * means + 0.5)
    alive = (1 - lengths.cdf(tokens - 0.5)).clamp(min=1e-12)
    ends = 1 - (1 - lengths.cdf(tokens + 0.5)) / alive
    return torch.logit(ends.clamp(1e-9, 1 - 1e-9)).float()


def impose_lengths(model: Any, longest_source: int) -> None:
    """Let outputs be about as long as their sources, whoever decodes.

    Random weights would hardly ever emit ``</s>``: every output would be as long as the limit
    allows, and an objective that decodes would seem to cost more than it does.  Only decoding,
    which is without gradient, is changed: what a pass with gradient costs does not depend on the
    values.

    Args:
        model: fairseq transformer with random weights, whose logits have a variance of about 1.
        longest_source: tokens, ``</s>`` included.
    """
    decoder = model.decoder
    forward = decoder.forward
    table = log_odds_of_ending(longest_source).to(next(model.parameters()).device)

    def ending(prev_output_tokens: Tensor, *arguments: Any, **keywords: Any) -> tuple[Tensor, Any]:
        logits, extra = forward(prev_output_tokens, *arguments, **keywords)
        if torch.is_grad_enabled():
            return logits, extra
        mask = keywords["encoder_out"]["encoder_padding_mask"][0]
        source = (~mask).sum(1) - 1
        emitted = min(prev_output_tokens.size(1) - 1, table.size(0) - 1)
        others = math.log(logits.size(2)) + 0.5
        logits[:, -1, _USUAL_WORD] = others + math.log(_ITS_ODDS)
        logits[:, -1, END] = table[emitted, source] + others + math.log1p(_ITS_ODDS)
        return logits, extra

    decoder.forward = ending
