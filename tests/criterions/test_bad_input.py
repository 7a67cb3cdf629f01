"""Wrong arguments are refused with a sentence that names them."""

from collections.abc import Callable

import pytest
import torch

from criterions import (
    bleu,
    bleu_from_statistics,
    clipped_overlap,
    expected_bleu,
    expected_overlap,
    monte_carlo_bleu,
    monte_carlo_overlap,
    reference_probabilities,
)

P_REF = torch.full((2, 4, 3), 0.2)
REFERENCES = torch.tensor([[0, 1, 0], [1, 1, 2]])
HYPOTHESES = torch.tensor([[0, 1, 0, 2], [1, 1, 2, 2]])


def overlap(**changes: object) -> object:
    return expected_overlap(**{"p_ref": P_REF, "references": REFERENCES, "order": 2, **changes})


def plug_in(**changes: object) -> object:
    return expected_bleu(**{"p_ref": P_REF, "references": REFERENCES, **changes})


def sampled_overlap(**changes: object) -> object:
    defaults = {"p_ref": P_REF, "references": REFERENCES, "order": 2, "samples": 3}
    return monte_carlo_overlap(**{**defaults, **changes})


def sampled_bleu(**changes: object) -> object:
    return monte_carlo_bleu(**{"p_ref": P_REF, "references": REFERENCES, "samples": 3, **changes})


def counted_overlap(**changes: object) -> object:
    defaults = {"hypotheses": HYPOTHESES, "references": REFERENCES, "order": 2}
    return clipped_overlap(**{**defaults, **changes})


def counted_bleu(**changes: object) -> object:
    return bleu(**{"hypotheses": HYPOTHESES, "references": REFERENCES, **changes})


def gathered(**changes: object) -> object:
    defaults = {"logits": torch.zeros(2, 4, 5), "references": REFERENCES}
    return reference_probabilities(**{**defaults, **changes})


def statistics(**changes: object) -> object:
    defaults = {
        "matches": torch.ones(2, 4),
        "totals": torch.ones(2, 4),
        "hypothesis_length": torch.ones(2),
        "reference_length": torch.ones(2),
    }
    return bleu_from_statistics(**{**defaults, **changes})


ON_PROBABILITIES = [overlap, plug_in, sampled_overlap, sampled_bleu]
ON_TOKENS = [counted_overlap, counted_bleu]
BATCHED = ON_PROBABILITIES + ON_TOKENS


def refused(function: Callable[..., object], name: str, wrong: object) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        function(**{name: wrong})


@pytest.mark.parametrize("function", [*BATCHED, gathered, statistics])
def test_the_arguments_of_these_tests_are_otherwise_fine(function: Callable[..., object]):
    function()


@pytest.mark.parametrize("function", ON_PROBABILITIES)
@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 5), (3, 4, 3), (2, 4, 3, 1)], ids=str)
def test_shape_of_p_ref(function: Callable[..., object], shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"\b(p_ref|references)\b"):
        function(p_ref=torch.full(shape, 0.2))


@pytest.mark.parametrize("function", [*BATCHED, gathered])
@pytest.mark.parametrize("shape", [(3,), (3, 3), (2, 3, 1)], ids=str)
def test_shape_of_references(function: Callable[..., object], shape: tuple[int, ...]):
    refused(function, "references", torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("function", BATCHED)
@pytest.mark.parametrize("name", ["lengths", "reference_lengths"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 1)], ids=str)
def test_shape_of_lengths(function: Callable[..., object], name: str, shape: tuple[int, ...]):
    refused(function, name, torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("function", ON_PROBABILITIES)
@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 4, 1)], ids=str)
def test_shape_of_eos_probabilities(function: Callable[..., object], shape: tuple[int, ...]):
    refused(function, "eos_probabilities", torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (2, 4, 5, 1)], ids=str)
def test_shape_of_logits(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"\b(logits|references)\b"):
        gathered(logits=torch.zeros(shape))


@pytest.mark.parametrize("function", ON_TOKENS)
def test_shape_of_hypotheses(function: Callable[..., object]):
    with pytest.raises(ValueError, match=r"\b(hypotheses|references)\b"):
        function(hypotheses=torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("function", [overlap, plug_in])
def test_unknown_value(function: Callable[..., object]):
    refused(function, "value", "best")


@pytest.mark.parametrize("function", [plug_in, sampled_bleu, counted_bleu, statistics])
def test_unknown_smoothing(function: Callable[..., object]):
    refused(function, "smoothing", "exp")


@pytest.mark.parametrize("function", [plug_in, sampled_bleu, counted_bleu])
def test_unknown_level(function: Callable[..., object]):
    refused(function, "level", "document")


@pytest.mark.parametrize("function", [overlap, sampled_overlap, counted_overlap])
@pytest.mark.parametrize("order", [0, -1])
def test_order_below_one(function: Callable[..., object], order: int):
    refused(function, "order", order)


@pytest.mark.parametrize("function", [plug_in, sampled_bleu, counted_bleu])
@pytest.mark.parametrize("max_order", [0, -1])
def test_max_order_below_one(function: Callable[..., object], max_order: int):
    refused(function, "max_order", max_order)


@pytest.mark.parametrize("function", [sampled_overlap, sampled_bleu])
@pytest.mark.parametrize("samples", [0, -1])
def test_samples_below_one(function: Callable[..., object], samples: int):
    refused(function, "samples", samples)


def test_statistics_that_do_not_fit_together():
    with pytest.raises(ValueError, match=r"\b(matches|totals)\b"):
        statistics(totals=torch.ones(2, 3))
    with pytest.raises(ValueError, match="hypothesis_length"):
        statistics(hypothesis_length=torch.ones(3))
    with pytest.raises(ValueError, match="reference_length"):
        statistics(reference_length=torch.ones(3))
