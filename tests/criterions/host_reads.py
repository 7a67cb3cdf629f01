"""Operations that make an accelerator wait until the host has read a value."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch_versions import TORCH_2

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
    aten.unique_consecutive,
    aten._unique2,
    aten.multinomial,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_}


class HostReads(TorchDispatchMode):
    """Lists the operations within its ``with`` block whose result the host has to wait for.

    On every device, so that a test needs no accelerator: reading a number, results whose shape
    depends on values (indexing by booleans, for one), and ``multinomial``, which checks its input.
    """

    def __new__(cls) -> "HostReads":
        if not TORCH_2:
            pytest.skip("watches operations as torch 2 lets it")
        return super().__new__(cls)

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        by_boolean = packet in INDEXING and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in tree_flatten(args[1])[0]
        )
        if packet in READS or by_boolean:
            self.operations.append(str(func))
        return func(*args, **(kwargs or {}))
