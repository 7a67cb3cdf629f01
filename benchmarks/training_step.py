"""Whole training steps of a small transformer, through fairseq's own task, model and optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from fairseq import options, tasks, utils
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import FairseqOptimizer, build_optimizer
from fairseq.tasks import FairseqTask

from benchmarks.loss_functions import END, PADDING, Shape, word_ids

USER_DIR = Path(__file__).resolve().parent.parent / "fairseq_plugins"
LAYERS, UNITS = 3, 256


def _model_flags() -> list[str]:
    flags = ["--arch", "transformer", "--share-all-embeddings", "--dropout", "0.3"]
    for side in ("encoder", "decoder"):
        flags += [f"--{side}-layers", str(LAYERS), f"--{side}-attention-heads", "4"]
        flags += [f"--{side}-embed-dim", str(UNITS), f"--{side}-ffn-embed-dim", str(4 * UNITS)]
    return [*flags, "--optimizer", "adam", "--lr", "0.0001", "--clip-norm", "1.0"]


def _write_dictionaries(folder: str, vocab: int) -> None:
    dictionary = Dictionary()
    for word in range(vocab - len(dictionary)):
        dictionary.add_symbol(f"w{word}")
    for language in ("de", "en"):
        dictionary.save(str(Path(folder, f"dict.{language}.txt")))


def _configuration(folder: str, criterion: Sequence[str], device: torch.device):
    flags = [folder, "--task", "translation", "--source-lang", "de", "--target-lang", "en"]
    flags += ["--user-dir", str(USER_DIR), *_model_flags(), *criterion]
    if device.type == "cpu":
        flags.append("--cpu")
    parser = options.get_training_parser()
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, flags))


def draw_sample(shape: Shape, device: torch.device) -> dict:
    """A batch as fairseq's collater makes it; source and target without padding."""
    generator = torch.Generator().manual_seed(0)
    sides = [word_ids((shape.batch, shape.tgt_len), shape.vocab, generator) for _ in range(2)]
    source, target = (side.to(device) for side in sides)
    source[:, -1] = target[:, -1] = END
    return {
        "id": torch.arange(shape.batch, device=device),
        "nsentences": shape.batch,
        "ntokens": target.ne(PADDING).sum().item(),
        "net_input": {
            "src_tokens": source,
            "src_lengths": torch.full((shape.batch,), shape.tgt_len, device=device),
            "prev_output_tokens": target.roll(1, dims=1),
        },
        "target": target,
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
    sample: dict
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
    criterions: dict[str, Sequence[str]], shape: Shape, device: torch.device
) -> dict[str, Step]:
    """A step per criterion, all on one batch, and of one ``--arch`` on one model and optimiser.

    Args:
        criterions: name -> fairseq flags, beginning with ``--criterion``; those that name another
            ``--arch`` than the first have the weights of its model where both have them.
        shape: of the batch; the source is as long as the target.
        device: where the model lives.
    """
    sample = draw_sample(shape, device)
    with TemporaryDirectory() as folder:
        _write_dictionaries(folder, shape.vocab)
        configurations = {
            name: _configuration(folder, flags, device) for name, flags in criterions.items()
        }
        first = next(iter(configurations.values()))
        utils.import_user_module(first.common)
        task = tasks.setup_task(first.task)
    models: dict[str, torch.nn.Module] = {}
    optimizers: dict[str, FairseqOptimizer] = {}
    steps = {}
    for name, configuration in configurations.items():
        arch = configuration.model.arch
        if arch not in models:
            torch.manual_seed(0)
            model = task.build_model(configuration.model).to(device)
            if models:
                model.load_state_dict(next(iter(models.values())).state_dict())
            learning = [value for value in model.parameters() if value.requires_grad]
            models[arch], optimizers[arch] = model, build_optimizer(first.optimizer, learning)
        criterion = task.build_criterion(configuration.criterion).to(device)
        steps[name] = Step(task, models[arch], criterion, optimizers[arch], sample)
    return steps
