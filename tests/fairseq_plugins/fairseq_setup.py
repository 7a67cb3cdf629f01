"""Task, model, criterion and batches in process, by fairseq's own parser and builders."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn
from torch.distributions import OneHotCategorical

import fairseq_plugins  # noqa: F401  (registers the criterions)
from criterions.stochastic_graph import sample
from fairseq_plugins.stochastic_graph.config import StochasticGraphCriterionConfig
from fairseq_plugins.stochastic_graph.criterion import StochasticGraphCriterion
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "transformer": (
        *("--arch", "transformer", "--encoder-layers", "1", "--decoder-layers", "1"),
        *("--encoder-embed-dim", "16", "--decoder-embed-dim", "16"),
        *("--encoder-ffn-embed-dim", "16", "--decoder-ffn-embed-dim", "16"),
        *("--encoder-attention-heads", "2", "--decoder-attention-heads", "2"),
    ),
    "lstm": (
        *("--arch", "lstm", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16"),
        *("--encoder-hidden-size", "16", "--decoder-hidden-size", "16"),
        *("--decoder-out-embed-dim", "16"),
    ),
    "fconv": (
        *("--arch", "fconv", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16"),
        *("--encoder-layers", "[(16, 3)]", "--decoder-layers", "[(16, 3)] * 2"),
        *("--decoder-out-embed-dim", "16"),
    ),
}
FEEDS = ("teacher", "greedy", "sample")
ORDERS = (1, 2, 3, 4)


@dataclass
class Setup:
    """What ``fairseq-train`` would have built."""

    config: Any
    task: Any
    model: Any
    criterion: Any

    def batch(self, *indices: int, subset: str = "train") -> dict[str, Any]:
        """Collate the sentences of a set; fairseq sorts them by source length."""
        if subset not in self.task.datasets:
            self.task.load_dataset(subset)
        dataset = self.task.dataset(subset)
        return dataset.collater([dataset[index] for index in indices])

    def log(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The criterion's logging output, in the mode that the model is in."""
        self.criterion.train(self.model.training)
        return self.criterion(self.model, sample)[2]

    def gradient(self, sample: dict[str, Any]) -> tuple[float, dict[str, Tensor], dict[str, Any]]:
        """Loss and gradients divided by ``sample_size``, as the trainer uses them; the log."""
        self.model.zero_grad()
        loss, sample_size, logged = self.criterion(self.model, sample)
        loss.backward()
        gradients = {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for name, parameter in self.model.named_parameters()
        }
        gradients = {name: grad.float() / sample_size for name, grad in gradients.items()}
        return float(loss) / float(sample_size), gradients, logged


@functools.cache
def _parsed(arguments: tuple[str, ...]) -> tuple[Any, Any]:
    """Configuration and task of a command line; building the parser is what takes the time."""
    parser = options.get_training_parser()
    config = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, list(arguments)))
    return config, tasks.setup_task(config.task)


def setup(
    data: Path,
    arch: str = "transformer",
    *,
    flags: Sequence[object] = (),
    name: str = "expected_bleu",
    weights: dict[str, Tensor] | None = None,
    sentence_avg: bool = False,
    **options_of_criterion: object,
) -> Setup:
    """Build everything on the CPU, without dropout unless ``flags`` ask for it; seeded.

    Args:
        data: binarised corpus.
        arch: key of ``ARCHITECTURES``.
        flags: more of ``fairseq-train``'s flags; later ones override.
        name: the criterion.
        weights: state of the model, in place of a random one.
        sentence_avg: ``--sentence-avg``.
        options_of_criterion: fields of the criterion's configuration, as its flags set them.
    """
    arguments = (str(data), "--criterion", name, "--dropout", "0", "--cpu", "--seed", "7")
    config, task = _parsed((*arguments, *ARCHITECTURES[arch], *map(str, flags)))
    config, task = copy.deepcopy(config), copy.copy(task)
    with open_dict(config):
        config.optimization.sentence_avg = sentence_avg
        if "sentence_avg" in config.criterion:
            config.criterion.sentence_avg = sentence_avg
        for key, value in options_of_criterion.items():
            assert key in config.criterion, f"{name} has no option {key}"
            OmegaConf.update(config.criterion, key, value)
    torch.manual_seed(config.common.seed)
    model = task.build_model(config.model)
    if weights is not None:
        model.load_state_dict(weights)
    return Setup(config, task, model, task.build_criterion(config.criterion))


def graph_criterion(built: Setup, **options: Any) -> Any:
    """``--criterion stochastic_graph`` of its flags alone: a fraction of the time of ``setup``."""
    config = StochasticGraphCriterionConfig(**{"sentence_avg": False, **options})
    return StochasticGraphCriterion(config, copy.copy(built.task))


@contextmanager
def layer_for(built: Setup, objective: str) -> Iterator[None]:
    """For a while, a layer that draws the most probable word, if ``--objective`` needs a layer."""
    if OBJECTIVES[objective].flags.get("emit") != "greedy":
        yield
        return

    def choose(module: nn.Module, arguments: Any, output: Any) -> Any:
        logits = output[0]
        distribution = OneHotCategorical(logits=logits.float(), validate_args=False)  # [rows, time]
        return (logits + 30 * sample("word", distribution), *output[1:])

    handle = built.model.decoder.register_forward_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def statistics_of(logged: dict[str, Any]) -> Tensor:
    """The logged BLEU statistics as one vector: matches, totals, lengths."""
    names = [f"expected_{kind}_{order}" for kind in ("matches", "totals") for order in ORDERS]
    names += ["expected_length", "reference_length"]
    return torch.stack([torch.as_tensor(logged[name], dtype=torch.float64) for name in names])


def logged_metrics(criterion: Any, *logging_outputs: dict[str, Any]) -> dict[str, float]:
    """What fairseq would print, were these the only batches."""
    with metrics.aggregate(new_root=True) as aggregator:
        criterion.__class__.reduce_metrics(list(logging_outputs))
    return aggregator.get_smoothed_values()


def sentences_of(sample: dict[str, Any], pad: int) -> Iterator[dict[str, Any]]:
    """Every sentence of a batch as a batch of its own, without padding."""
    net_input = sample["net_input"]
    for index in range(sample["target"].size(0)):

        def one(tokens: Tensor, index: int = index) -> Tensor:
            row = tokens[index]
            return row[row.ne(pad)].unsqueeze(0)

        yield {
            "id": sample["id"][index : index + 1],
            "nsentences": 1,
            "ntokens": int(sample["target"][index].ne(pad).sum()),
            "target": one(sample["target"]),
            "net_input": {
                "src_tokens": one(net_input["src_tokens"]),
                "src_lengths": net_input["src_lengths"][index : index + 1],
                "prev_output_tokens": one(net_input["prev_output_tokens"]),
            },
        }


def descend(built: Setup, sample: dict[str, Any], steps: int, learning_rate: float) -> None:
    """Adam on one batch."""
    optimiser = torch.optim.Adam(built.model.parameters(), lr=learning_rate)
    for _ in range(steps):
        gradients = built.gradient(sample)[1]
        for name, parameter in built.model.named_parameters():
            parameter.grad = gradients[name].to(parameter.dtype)
        optimiser.step()


def epoch_batches(built: Setup, subset: str, sentences: int) -> list[dict[str, Any]]:
    """The batches of the first epoch, in the order in which fairseq's trainer takes them."""
    built.task.load_dataset(subset)
    iterator = built.task.get_batch_iterator(
        built.task.dataset(subset),
        max_sentences=sentences,
        seed=built.config.common.seed,
        required_batch_size_multiple=1,
    )
    return list(iterator.next_epoch_itr(shuffle=True))


class FixedRows(nn.Module):
    """A stand-in for an encoder-decoder model whose rows are the same whatever is fed.

    ``rows``: ``[batch, longest, vocab]`` logits.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows
        self.encoder = _NoEncoder()
        self.decoder = _RowsDecoder(rows)

    def max_decoder_positions(self) -> int:
        return self.rows.size(1) + 1

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor) -> Any:
        return self.decoder(prev_output_tokens, encoder_out=None)


class _NoEncoder(nn.Module):
    def forward_torchscript(self, net_input: dict[str, Tensor]) -> None:
        return None


class _RowsDecoder(nn.Module):
    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, prev_output_tokens: Tensor, encoder_out: Any) -> tuple[Tensor, None]:
        # A copy: the caller may write to its logits.
        return self.rows[:, : prev_output_tokens.size(1)].clone(), None


def sample_of(
    targets: Sequence[Sequence[int]], eos: int, pad: int, source_length: int = 5
) -> dict[str, Any]:
    """A batch with these target words; the source is a placeholder."""
    longest = max(map(len, targets)) + 1
    target = torch.full((len(targets), longest), pad)
    fed = torch.full((len(targets), longest), pad)
    for index, words in enumerate(targets):
        target[index, : len(words) + 1] = torch.tensor([*words, eos])
        fed[index, : len(words) + 1] = torch.tensor([eos, *words])
    source = torch.full((len(targets), source_length), eos)
    return {
        "id": torch.arange(len(targets)),
        "nsentences": len(targets),
        "ntokens": sum(map(len, targets)) + len(targets),
        "target": target,
        "net_input": {
            "src_tokens": source,
            "src_lengths": torch.full((len(targets),), source_length),
            "prev_output_tokens": fed,
        },
    }


@contextmanager
def evaluating(built: Setup) -> Iterator[None]:
    """Validation mode for a while, of model and criterion."""
    built.model.eval()
    built.criterion.eval()
    try:
        yield
    finally:
        built.model.train()
        built.criterion.train()
