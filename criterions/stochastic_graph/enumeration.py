"""The axes of enumerated nodes, and the expectation over them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from criterions.stochastic_graph.nodes import StochasticNode


@dataclass(frozen=True, eq=False)
class EnumeratedAxis:
    """One enumerated node."""

    node: StochasticNode
    position: int
    """Among the graph's stochastic nodes, in recording order."""

    weights: Tensor
    """``p(k)``, ``[values, *earlier enumerated, rows]``, or with a last axis ``time``."""

    has_time: bool


class EnumeratedAxes:
    """All enumerated nodes of a graph, in recording order.

    Axis ``i`` (the i-th enumerated node) is at index ``-1 - i`` from the rows: a tensor of depth
    ``n`` depends on the first ``n`` nodes at most and is ``[n-1, ..., 1, 0, rows, ...]``.
    """

    def __init__(self) -> None:
        self._axes: list[EnumeratedAxis] = []

    def __len__(self) -> int:
        return len(self._axes)

    def append(self, axis: EnumeratedAxis) -> None:
        self._axes.append(axis)

    def depth(self, ancestors: frozenset[int]) -> int:
        """How many axes a tensor with these ancestors has: up to the latest enumerated one."""
        depths = [i + 1 for i, axis in enumerate(self._axes) if axis.position in ancestors]
        return max(depths, default=0)

    def check(
        self, what: str, tensor: Tensor, ancestors: frozenset[int], depth: int, has_time: bool
    ) -> None:
        """Raise ``ValueError`` unless a canonical tensor's axes fit the enumerated nodes."""
        for i, axis in enumerate(self._axes[:depth]):
            size = tensor.size(depth - 1 - i)
            values = axis.weights.size(0) if axis.position in ancestors else 1
            if size not in (1, values):
                raise ValueError(
                    f"{what} must have size {values} or 1 at axis {depth - 1 - i}, the values of "
                    f"enumerated {axis.node}; got shape {list(tensor.shape)}: compute it from the "
                    "node's value, or name its parents"
                )
            if size > 1 and axis.has_time and not has_time:
                raise ValueError(
                    f"{what} depends on enumerated {axis.node}, whose steps are independent, and "
                    "so must have a time axis: give the cost of each step"
                )

    def check_no_independent_steps(self, what: str, depth: int) -> None:
        """Raise ``ValueError`` if a score term would stand behind independent steps."""
        for axis in self._axes[:depth]:
            if axis.has_time:
                raise ValueError(
                    f"{what} is drawn after {axis.node}, whose steps are enumerated "
                    "independently: record it earlier, name its parents, or sample that node"
                )

    def expect(self, tensor: Tensor, has_time: bool, depth: int = 0) -> Tensor:
        """Expectation over the axes from ``depth`` on.

        Args:
            tensor: canonical, of any depth.
            has_time: whether its last axis is time.
            depth: how many axes stay.

        Returns:
            canonical, of the given depth.
        """
        for i in reversed(range(depth, tensor.dim() - 1 - has_time)):
            if tensor.size(0) == 1:
                tensor = tensor.squeeze(0)
                continue
            weights = self._axes[i].weights
            if has_time and not self._axes[i].has_time:
                weights = weights.unsqueeze(-1)
            tensor = (weights * tensor).sum(0)
        return tensor

    def probability(self, like: Tensor, has_time: bool) -> Tensor:
        """Probability of the enumerated values at each element of a canonical tensor.

        Without gradient; broadcasts with ``like``.  No axis may have independent steps.
        """
        probability = like.new_ones(())
        for axis in self._axes[: like.dim() - 1 - has_time]:
            weights = axis.weights.detach()
            probability = probability * (weights.unsqueeze(-1) if has_time else weights)
        return probability
