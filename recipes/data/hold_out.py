"""Valid and test text cut out of the training text, the same way every time."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from recipes.data.formats import Pair


def cut_clusters(
    pairs: list[Pair], sizes: Mapping[str, int]
) -> tuple[list[Pair], dict[str, list[Pair]]]:
    """Split ``pairs`` so that no sentence, of either side, is in two parts.

    Pairs that share a sentence make a cluster, and so do those that are linked through others.
    Clusters are drawn whole, in an order that depends on their text alone.

    Args:
        sizes: number of pairs by split; a split gets fewer where no cluster is small enough.

    Returns:
        The pairs that are left for training, in their order, and those of each split.
    """
    clusters = _clusters(pairs)

    def key(members: list[int]) -> tuple[bytes, str]:
        smallest = min(pairs[index][0] for index in members)
        return hashlib.blake2b(smallest.encode(), digest_size=8).digest(), smallest

    held_out: dict[str, list[int]] = {split: [] for split in sizes}
    for members in sorted(clusters, key=key):
        for split, size in sizes.items():
            if len(held_out[split]) + len(members) <= size:
                held_out[split] += members
                break
    gone = {index for members in held_out.values() for index in members}
    left = [pair for index, pair in enumerate(pairs) if index not in gone]
    return left, {s: [pairs[index] for index in members] for s, members in held_out.items()}


def with_several_references(pairs: Iterable[Pair]) -> list[Pair]:
    """Sources that have two references or more among ``pairs``, with all of them."""
    references: dict[str, dict[str, None]] = defaultdict(dict)
    for source, row in pairs:
        references[source].update(dict.fromkeys(row))
    return [(source, list(found)) for source, found in references.items() if len(found) > 1]


def _clusters(pairs: list[Pair]) -> list[list[int]]:
    """Indices of the pairs of each cluster: those that share sentences, of either side."""
    if not pairs:
        return []
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number: dict[tuple[int, str], int] = {}
    edges = []
    for index, (source, references) in enumerate(pairs):
        for sentence in ((0, source), *((1, reference) for reference in references)):
            node = number.setdefault(sentence, len(pairs) + len(number))
            edges.append((index, node))
    size = len(pairs) + len(number)
    ends = tuple(zip(*edges, strict=True))
    graph = coo_array(([True] * len(edges), ends), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(pairs)):
        members[labels[index]].append(index)
    return list(members.values())
