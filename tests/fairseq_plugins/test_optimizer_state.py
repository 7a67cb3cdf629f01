"""The state of an optimiser from a run whose criterion had other parameters."""

import copy

import pytest
import torch
from fairseq.optim.adafactor import Adafactor

from fairseq_plugins.optimizer_state import fitted

MODEL = [(2, 3), (3,)]
CRITERIONS = {"none": [], "average": [(1,)], "learned": [(1, 4), (1,)], "larger": [(1, 8), (1,)]}


def parameters(shapes):
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


def stepped(own, kind):
    optimizer = kind(own)
    for parameter in own:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    "kind",
    [
        lambda own: torch.optim.Adam(own, lr=0.1),
        lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9),
        lambda own: torch.optim.SGD(own, lr=0.1),
        lambda own: Adafactor(own, lr=0.1, relative_step=False),
    ],
    ids=["adam", "momentum", "no state", "adafactor"],
)
@pytest.mark.parametrize("before", CRITERIONS)
@pytest.mark.parametrize("after", CRITERIONS)
def test_the_model_goes_on_and_the_criterion_starts_anew(kind, before, after):
    model = parameters(MODEL)
    saved = stepped([*model, *parameters(CRITERIONS[before])], kind).state_dict()
    kept = copy.deepcopy(saved)
    criterion = parameters(CRITERIONS[after])
    own = [*model, *criterion]
    resumed = kind(own)
    state = fitted(saved, own, criterion)
    both_learned = {before, after} <= {"learned", "larger"}
    assert (state is saved) == (before == after or (both_learned and not saved["state"]))
    resumed.load_state_dict(state)
    for index, parameter in enumerate(own):
        same = index < len(model) or before == after
        expected = kept["state"].get(index, {}) if same else {}
        found = resumed.state[parameter]
        assert found.keys() == expected.keys()
        torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=0)
    torch.testing.assert_close(saved, kept, rtol=0, atol=0)  # what was given stays as it was
    stepped(own, lambda _: resumed)


@pytest.mark.parametrize("before", CRITERIONS)
@pytest.mark.parametrize("after", CRITERIONS)
def test_one_vector_of_all_parameters_keeps_the_models_part(before, after):
    """As with ``--fp16``: model first, then criterion."""

    def flat(criterion):
        return torch.nn.Parameter(torch.randn(9 + sum(map(torch.Size.numel, sizes(criterion)))))

    def sizes(criterion):
        return [torch.Size(shape) for shape in CRITERIONS[criterion]]

    saved = stepped([flat(before)], torch.optim.Adam).state_dict()
    own = flat(after)
    state = fitted(saved, [own], parameters(CRITERIONS[after]))
    resumed = torch.optim.Adam([own])
    resumed.load_state_dict(state)
    found, expected = resumed.state[own]["exp_avg"], saved["state"][0]["exp_avg"]
    assert found.shape == own.shape
    torch.testing.assert_close(found[:9], expected[:9], rtol=0, atol=0)
    if before == after:
        assert state is saved
    else:
        assert found[9:].eq(0).all()
    stepped([own], lambda _: resumed)


def test_a_state_of_too_few_parameters_is_left_to_torch():
    """Those of another model, which is no matter of the criterion."""
    saved = stepped(parameters(MODEL[:1]), torch.optim.Adam).state_dict()
    own = parameters(MODEL)
    assert fitted(saved, own, []) is saved
    with pytest.raises(ValueError, match="parameter group"):
        torch.optim.Adam(own).load_state_dict(saved)
