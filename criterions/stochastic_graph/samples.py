"""Where the k samples of a source lie in a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SampleLayout:
    """How ``samples`` draws for each of ``batch`` sources are laid out.

    Inside the library both layouts are flattened to one axis ``rows = batch * samples``.

    Args:
        samples: draws per source.
        leading: False: the batch is repeated, ``[batch * samples, ...]``, and the samples of a
            source follow each other (``torch.repeat_interleave``, fairseq's layout of beams).
            True: an axis of its own comes first, ``[samples, batch, ...]``.
    """

    samples: int = 1
    leading: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1; got {self.samples}")

    @property
    def dims(self) -> int:
        """How many axes of a user's tensor the rows take."""
        return 2 if self.leading else 1

    def describe(self) -> str:
        """The rows as a user writes them, for error messages."""
        return "samples, batch" if self.leading else "batch"

    def flatten(self, what: str, tensor: Tensor, enumerated: int = 0) -> Tensor:
        """Flatten the rows.

        Args:
            what: what the tensor is, for error messages.
            tensor: ``[*enumerated, batch * samples, ...]`` or
                ``[*enumerated, samples, batch, ...]``.
            enumerated: number of axes before the rows.

        Returns:
            ``[*enumerated, rows, ...]``.

        Raises:
            ValueError: axes are missing, or their size does not fit ``samples``.
        """
        shape = list(tensor.shape)
        if tensor.dim() < enumerated + self.dims:
            axes = [f"enumerated {i}" for i in reversed(range(enumerated))] + [self.describe()]
            raise ValueError(f"{what} must be [{', '.join(axes)}, ...]; got shape {shape}")
        size = tensor.size(enumerated)
        if self.leading:
            if size != self.samples:
                raise ValueError(
                    f"{what} must have samples={self.samples} at axis {enumerated}; "
                    f"got shape {shape}"
                )
            return tensor.flatten(enumerated, enumerated + 1)
        if size % self.samples:
            raise ValueError(
                f"{what} has {size} rows, which samples={self.samples} does not divide: "
                "repeat every source that many times"
            )
        return tensor

    def split(self, rows: Tensor, dim: int) -> tuple[Tensor, int]:
        """Split axis ``dim`` (rows) in two; returns the tensor and the axis of the samples."""
        dim %= rows.dim()
        sizes = [self.samples, -1] if self.leading else [-1, self.samples]
        split = rows.reshape(*rows.shape[:dim], *sizes, *rows.shape[dim + 1 :])
        return split, dim if self.leading else dim + 1

    def mean(self, rows: Tensor) -> Tensor:
        """Mean over the samples of each source: ``[rows]`` to ``[batch]``."""
        split, dim = self.split(rows, 0)
        return split.mean(dim)

    def expand(self, what: str, tensor: Tensor, rows: int) -> Tensor:
        """Rows of a tensor that may hold one value for all samples of a source.

        Args:
            what: what the tensor is, for error messages.
            tensor: ``[batch * samples, ...]`` or ``[batch, ...]``; with leading samples,
                ``[samples, batch, ...]`` or ``[1, batch, ...]``.
            rows: ``batch * samples``.

        Returns:
            ``[rows, ...]``.

        Raises:
            ValueError: neither shape fits.
        """
        batch = rows // self.samples
        heads = [(self.samples, batch), (1, batch)] if self.leading else [(rows,), (batch,)]
        head = tuple(tensor.shape[: self.dims])
        if head not in heads:
            names = [str([*shape, "..."]).replace("'", "") for shape in heads]
            wanted = " or ".join(dict.fromkeys(names))
            raise ValueError(f"{what} must have shape {wanted}; got {list(tensor.shape)}")
        if self.leading:
            tensor = tensor.expand(self.samples, *tensor.shape[1:])
            return tensor.flatten(0, 1)
        return tensor if head == (rows,) else tensor.repeat_interleave(self.samples, dim=0)
