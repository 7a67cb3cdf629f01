"""Normalised rewards have mean 0 and standard deviation 1 over what they are normalised over."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from criterions import clip_rewards, normalize_rewards
from criterions.reward_shaping import NORMALIZATIONS

eighths = st.integers(-800, 800).map(lambda number: number / 8)
matrices = st.integers(1, 4).flatmap(
    lambda samples: st.lists(
        st.lists(eighths, min_size=samples, max_size=samples), min_size=1, max_size=4
    )
)


def standardised(values: np.ndarray) -> np.ndarray:
    """By the definition, in double precision."""
    if np.ptp(values) == 0:
        return np.zeros_like(values)
    return (values - values.mean()) / values.std()


@given(matrices)
def test_a_batch_is_normalised_as_a_whole(rewards: list[list[float]]):
    values = np.array(rewards)
    normalized = normalize_rewards(torch.tensor(rewards), "batch")
    assert normalized.dtype == torch.float32
    np.testing.assert_allclose(normalized.numpy(), standardised(values), atol=1e-5)


@given(matrices)
def test_a_group_is_normalised_by_itself(rewards: list[list[float]]):
    normalized = normalize_rewards(torch.tensor(rewards), "group")
    expected = np.stack([standardised(np.array(row)) for row in rewards])
    np.testing.assert_allclose(normalized.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["batch", "group"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3e4, 1e-20])
def test_equal_rewards_normalise_to_zero(mode: str, value: float):
    assert normalize_rewards(torch.full((3, 7), value), mode).eq(0).all()


@pytest.mark.parametrize("mode", ["batch", "group"])
def test_scale_and_offset_of_the_rewards_do_not_matter(mode: str):
    rewards = torch.tensor(np.random.default_rng(0).random((3, 5)))
    torch.testing.assert_close(
        normalize_rewards(100 * rewards - 1e4, mode), normalize_rewards(rewards, mode)
    )


def test_a_small_spread_on_a_large_offset_survives_single_precision():
    rewards = torch.tensor([[4096.0, 4096.5, 4097.0]])
    expected = torch.tensor([[-1.0, 0.0, 1.0]]) * 1.5**0.5
    torch.testing.assert_close(normalize_rewards(rewards, "group"), expected)


def test_none_leaves_the_rewards_alone():
    rewards = torch.tensor([[0.3, -2.0]])
    assert normalize_rewards(rewards, "none").equal(rewards)


def test_two_workers_normalise_as_one():
    rewards = torch.tensor(np.random.default_rng(1).random((4, 3)), dtype=torch.float32)
    sums: list[torch.Tensor] = []
    for half in rewards.split(2):
        normalize_rewards(half, "batch", sum_over_workers=lambda t: sums.append(t) or t)
    assert [list(own.shape) for own in sums] == [[3], [3]]
    assert sums[0].tolist() == pytest.approx(
        [6, *(float((rewards[:2] ** n).sum()) for n in (1, 2))]
    )
    apart = [
        normalize_rewards(half, "batch", sum_over_workers=lambda _: sums[0] + sums[1])
        for half in rewards.split(2)
    ]
    torch.testing.assert_close(torch.cat(apart), normalize_rewards(rewards, "batch"))


def test_only_a_batch_is_summed_over_workers():
    def never(sums: torch.Tensor) -> torch.Tensor:
        raise AssertionError("other workers are not concerned")

    for mode in ("none", "group"):
        normalize_rewards(torch.ones(2, 2), mode, sum_over_workers=never)


def test_an_unknown_mode_and_tensors_that_do_not_fit_are_refused():
    rewards = torch.ones(2, 3)
    with pytest.raises(ValueError, match="mode must be one of none, batch, group"):
        normalize_rewards(rewards, "sample")
    with pytest.raises(ValueError, match=r"rewards must be a floating tensor \[batch, samples\]"):
        normalize_rewards(rewards.flatten(), "batch")


def test_rewards_are_clipped_at_either_bound_or_both():
    rewards = torch.tensor([-2.0, 0.5, 3.0])
    assert clip_rewards(rewards, -1, 1).tolist() == [-1, 0.5, 1]
    assert clip_rewards(rewards, low=0).tolist() == [0, 0.5, 3]
    assert clip_rewards(rewards, high=1).tolist() == [-2, 0.5, 1]
    assert clip_rewards(rewards).tolist() == rewards.tolist()


@pytest.mark.parametrize(("low", "high"), [(1, 0), (float("nan"), 1), (0, float("nan"))])
def test_bounds_in_the_wrong_order_are_refused(low: float, high: float):
    with pytest.raises(ValueError, match="low must not be above high"):
        clip_rewards(torch.ones(2), low, high)


@pytest.mark.parametrize("mode", NORMALIZATIONS)
def test_no_value_is_looked_at(mode: str):
    # Tensors of the meta device have none, so an accelerator never has to wait.
    rewards = torch.zeros(2, 3, device="meta")
    assert clip_rewards(normalize_rewards(rewards, mode), 0, 1).shape == (2, 3)
