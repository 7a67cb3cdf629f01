"""``reference_probabilities`` is softmax-and-gather that keeps no second copy of the logits."""

import gc

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch_versions import TORCH_2

from criterions import reference_probabilities

SHAPE = (3, 5, 97)  # batch, tgt_len, vocab
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def random_logits(dtype: torch.dtype, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(SHAPE, generator=generator)).to(dtype)


def random_references(ref_len: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    references = torch.randint(SHAPE[2], (SHAPE[0], ref_len), generator=generator)
    references[:, 3] = references[:, 0]  # a repeated word must get both columns' gradient
    return references


def softmax_and_gather(logits: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    index = references[:, None].expand(-1, logits.shape[1], -1)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.softmax(-1, dtype=dtype).gather(2, index)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_softmax_and_gather(dtype: torch.dtype):
    logits, references = random_logits(dtype), random_references()
    p_ref = reference_probabilities(logits, references)
    assert p_ref.dtype == torch.float32
    assert p_ref.shape == (3, 5, 7)
    torch.testing.assert_close(p_ref, softmax_and_gather(logits, references), rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_equals_autograd(dtype: torch.dtype):
    references = random_references()
    logits = random_logits(dtype).requires_grad_()
    weights = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(
        (reference_probabilities(logits, references) * weights).sum(), logits
    )
    assert gradient.dtype == dtype
    # The plain way in float64, from the same (rounded) logits.
    exact = logits.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(
        (softmax_and_gather(exact, references) * weights).sum(), exact
    )
    resolution = torch.finfo(dtype).resolution
    torch.testing.assert_close(
        gradient.double(), expected, rtol=2 * resolution, atol=resolution * 1e-2
    )


def test_gradcheck_in_float64():
    references = torch.tensor([[0, 2, 2, 1], [3, 3, 0, 4]])
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: reference_probabilities(z, references), logits)


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[[1e4, 0.0, -1e4]]], requires_grad=True)
    p_ref = reference_probabilities(logits, torch.tensor([[0, 1, 2]]))
    assert p_ref.tolist() == [[[1.0, 0.0, 0.0]]]
    (gradient,) = torch.autograd.grad(p_ref.sum(), logits)
    assert gradient.isfinite().all()


def test_masked_logits_have_probability_zero():
    """Minus infinity is how a decoder forbids a word."""
    logits = torch.tensor([[[0.0, float("-inf"), 0.0]]], requires_grad=True)
    p_ref = reference_probabilities(logits, torch.tensor([[0, 1, 2]]))
    assert p_ref.tolist() == [[[0.5, 0.0, 0.5]]]
    (gradient,) = torch.autograd.grad(p_ref[..., 0].sum(), logits)
    assert gradient.tolist() == [[[0.25, 0.0, -0.25]]]


def test_logits_need_not_be_contiguous():
    logits = random_logits(torch.float32)
    references = random_references()
    transposed = logits.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(
        reference_probabilities(transposed, references), reference_probabilities(logits, references)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward_keeps_nothing_as_large_as_the_logits_but_the_logits(dtype: torch.dtype):
    logits, references = random_logits(dtype).requires_grad_(), random_references()
    saved = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        p_ref = reference_probabilities(logits, references)
    assert p_ref.requires_grad
    large = [tensor for tensor in saved if tensor.numel() >= logits.numel()]
    assert all(tensor.data_ptr() == logits.data_ptr() for tensor in large)


class LargeStorages(TorchDispatchMode):
    """Weak references to every storage of at least ``numel`` float32 that an operation made."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.bytes = 4 * numel
        self.made: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= self.bytes:
                reference = StorageWeakRef(tensor.untyped_storage())
                self.made[reference.cdata] = reference
        return result

    def alive(self) -> int:
        gc.collect()
        return sum(not reference.expired() for reference in self.made.values())


@pytest.mark.skipif(not TORCH_2, reason="watches operations as torch 2 lets it")
def test_no_large_tensor_outlives_the_forward_pass():
    """Also what is kept past the saved-tensor hooks: attributes, closures."""
    logits, references = random_logits(torch.float32).requires_grad_(), random_references()
    with LargeStorages(logits.numel()) as plain:
        kept = softmax_and_gather(logits, references)
    assert plain.alive() == 1  # softmax's output: the watch does see what is kept
    del kept
    with LargeStorages(logits.numel()) as storages:
        p_ref = reference_probabilities(logits, references)
    own = StorageWeakRef(logits.untyped_storage()).cdata
    storages.made.pop(own, None)
    assert p_ref.requires_grad
    assert storages.alive() == 0
