"""Draws near a reference against enumeration of all outputs and exact integer counts.

Where the vocabulary shares no token with a reference of different tokens, an output tells its
history: tokens that are missing were substituted, and every new token is an edit.
"""

import itertools
import math
from collections import Counter

import pytest
import torch
from host_reads import HostReads

from criterions import sample_edits
from criterions.edit_distance_sampling import EDIT_KINDS, edit_log_weights

DRAWS = 20000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(reference: list[int], vocabulary: list[int], draws: int = DRAWS, **options):
    """Outputs as tuples."""
    references = torch.tensor([reference]).expand(draws, -1)
    lengths = torch.full((draws,), len(reference))
    tokens, lengths = sample_edits(
        references,
        lengths,
        vocabulary=torch.tensor(vocabulary),
        generator=options.pop("generator", None) or seeded(),
        **options,
    )
    return [tuple(row[:n]) for row, n in zip(tokens.tolist(), lengths.tolist(), strict=True)]


def assert_frequencies(outcomes: list, weights: dict) -> None:
    """Frequencies are those of the weights: chi-square over all outcomes, rare ones together."""
    total = math.fsum(weights.values())
    expected = {outcome: len(outcomes) * w / total for outcome, w in weights.items()}
    counts = Counter(outcomes)
    assert set(counts) <= set(weights)
    rare = [outcome for outcome, n in expected.items() if n < 10]
    cells = [(counts[o], n) for o, n in expected.items() if n >= 10]
    cells.append((sum(counts[o] for o in rare), math.fsum(expected[o] for o in rare)))
    cells = [(count, n) for count, n in cells if n > 1]
    assert len(cells) > 2
    chi_square = math.fsum((count - n) ** 2 / n for count, n in cells)
    freedom = len(cells) - 1
    # Wilson and Hilferty: the cube root is nearly normal.
    spread = 2 / (9 * freedom)
    z = ((chi_square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    assert z < 4


def levenshtein(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 50.0])
def test_hamming_is_the_exponentiated_payoff_distribution(temperature: float):
    """A token of the reference that the vocabulary lacks (5) may stay, too."""
    reference, vocabulary = [4, 9, 5, 4], [9, 4, 7]
    weights = {}
    for output in itertools.product(*[sorted({*vocabulary, token}) for token in reference]):
        distance = sum(x != y for x, y in zip(output, reference, strict=True))
        weights[output] = math.exp(-distance / temperature)
    outcomes = draw(reference, vocabulary, temperature=temperature, kind="hamming")
    assert_frequencies(outcomes, weights)


def payoffs_without_deletions(
    reference: tuple[int, ...], vocabulary: list[int], temperature: float
) -> dict[tuple[int, ...], float]:
    """``exp(-d / temperature)`` of all outputs whose distance ``d`` is their number of new tokens.

    These are the outputs that substitutions and insertions alone lead to: with a deletion, the
    distance is larger than the number of new tokens.
    """
    m, weights = len(reference), {}
    for length in range(m, 2 * m + 1):
        for output in itertools.product([*reference, *vocabulary], repeat=length):
            new = sum(token in vocabulary for token in output)
            if new <= m and levenshtein(reference, output) == new:
                weights[output] = math.exp(-new / temperature)
    return weights


@pytest.mark.parametrize("temperature", [0.4, 1.0, 5.0])
@pytest.mark.parametrize("reference", [(1,), (1, 2), (1, 2, 3)], ids=len)
def test_edit_draws_every_output_with_its_payoff(reference: tuple[int, ...], temperature: float):
    """No binomials here: all outputs are listed and their distances taken."""
    vocabulary = [10, 11] if len(reference) < 3 else [10]
    weights = payoffs_without_deletions(reference, vocabulary, temperature)
    outcomes = draw(list(reference), vocabulary, temperature=temperature, kind="edit")
    assert_frequencies(outcomes, weights)


@pytest.mark.parametrize(("length", "vocabulary_size"), [(6, 3), (12, 1000)])
def test_numbers_of_edits_and_of_substitutions_follow_the_papers_counts(
    length: int, vocabulary_size: int
):
    temperature = 1 / (math.log(vocabulary_size) + 1.5)
    weights = {
        (e, s): math.comb(length, s)
        * math.comb(length + e - 2 * s, e - s)
        * math.exp(e * (math.log(vocabulary_size) - 1 / temperature))
        for e in range(length + 1)
        for s in range(e + 1)
    }
    reference = list(range(length))
    vocabulary = list(range(100, 100 + vocabulary_size))
    outcomes = draw(reference, vocabulary, temperature=temperature, kind="edit")
    new = [sum(token >= 100 for token in output) for output in outcomes]
    kept = [len(output) - n for output, n in zip(outcomes, new, strict=True)]
    pairs = [(n, length - k) for n, k in zip(new, kept, strict=True)]
    assert_frequencies(pairs, weights)


def test_edit_weights_of_long_sentences_and_large_vocabularies_are_exact():
    lengths, vocabulary_size, temperature = [0, 7, 120, 200], 32000, 0.085
    weights = edit_log_weights(torch.tensor(lengths), 200, vocabulary_size, temperature)
    assert weights.shape == (4, 201, 201)
    for index, m in enumerate(lengths):
        for e in range(0, 201, 5):
            for s in range(0, 201, 3):
                if s > e or e > m:
                    assert weights[index, e, s] == -math.inf
                    continue
                count = math.comb(m, s) * math.comb(m + e - 2 * s, e - s) * vocabulary_size**e
                exact = math.log(count) - e / temperature
                assert weights[index, e, s].item() == pytest.approx(exact, rel=1e-9, abs=1e-9)


def test_the_edit_distance_is_the_number_of_edits_where_new_tokens_are_new():
    reference = (1, 2, 3, 4, 5)
    outcomes = draw(list(reference), [10, 11, 12], 300, temperature=1.0, kind="edit")
    distances = [levenshtein(reference, output) for output in outcomes]
    assert distances == [sum(token >= 10 for token in output) for output in outcomes]
    assert len(set(distances)) > 3


def test_the_edit_distance_is_at_most_the_number_of_edits():
    """The same draws, once with a vocabulary that gives every edit away."""
    reference = (1, 2, 2, 1, 3)
    options = {"draws": 500, "temperature": 1.0, "kind": "edit"}
    outcomes = draw(list(reference), [1, 2, 3], **options)
    told = draw(list(reference), [11, 12, 13], **options)
    smaller = 0
    for output, history in zip(outcomes, told, strict=True):
        assert [t % 10 for t in history] == list(output)
        edits = sum(token > 10 for token in history)
        distance = levenshtein(reference, output)
        assert distance <= edits
        smaller += distance < edits
    assert smaller > 0  # a token replaced by itself, or inserted beside its equal


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_new_tokens_are_uniform_over_the_vocabulary(kind: str):
    vocabulary = [*range(100, 130)]
    outcomes = draw([1, 2, 3], vocabulary, temperature=0.5, kind=kind)
    new = [token for output in outcomes for token in output if token >= 100]
    assert_frequencies(new, dict.fromkeys(vocabulary, 1.0))


@pytest.mark.parametrize("kind", EDIT_KINDS)
@pytest.mark.parametrize("temperature", [1e-3, 1e-300])
def test_temperature_towards_zero_gives_the_reference(kind: str, temperature: float):
    assert set(draw([4, 9, 5], [4, 9, 7], 500, temperature=temperature, kind=kind)) == {(4, 9, 5)}


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_lengths_and_padding(kind: str):
    references = torch.tensor([[5, 6, 7, 8], [5, 6, -9, -9], [-9, -9, -9, -9]])
    lengths = torch.tensor([4, 2, 0])
    seen = set()
    for seed in range(50):
        tokens, drawn = sample_edits(
            references,
            lengths,
            vocabulary=torch.tensor([10, 11]),
            temperature=2.0,
            kind=kind,
            padding_value=1,
            generator=seeded(seed),
        )
        assert tokens.shape == (3, 4 if kind == "hamming" else 8)
        assert drawn.dtype == torch.int64
        assert (lengths <= drawn).all()
        assert (drawn <= (lengths if kind == "hamming" else 2 * lengths)).all()
        for row, n in zip(tokens.tolist(), drawn.tolist(), strict=True):
            assert set(row[:n]) <= {5, 6, 7, 8, 10, 11}
            assert set(row[n:]) <= {1}
        seen.add(tuple(drawn.tolist()))
    assert len(seen) == 1 if kind == "hamming" else len(seen) > 5


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_other_sentences_and_padding_columns_do_not_change_the_distribution(kind: str):
    """A batch of two lengths: each has the frequencies that it has alone."""
    references = torch.tensor([[1, 2, 0, 0], [1, 2, 3, 4]]).repeat(DRAWS, 1)
    lengths = torch.tensor([2, 4]).repeat(DRAWS)
    tokens, drawn = sample_edits(
        references,
        lengths,
        vocabulary=torch.tensor([10]),
        temperature=1.0,
        kind=kind,
        generator=seeded(),
    )
    short = [
        tuple(row[:n]) for row, n in zip(tokens[::2].tolist(), drawn[::2].tolist(), strict=True)
    ]
    if kind == "edit":
        weights = payoffs_without_deletions((1, 2), [10], 1.0)
    else:
        weights = {(1, 2): 1, (10, 2): math.exp(-1), (1, 10): math.exp(-1), (10, 10): math.exp(-2)}
    assert_frequencies(short, weights)


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_the_generator_alone_decides(kind: str):
    state = torch.random.get_rng_state()
    options = {"draws": 20, "temperature": 1.0, "kind": kind}
    first = draw([1, 2, 3], [7, 8], generator=seeded(1), **options)
    assert first == draw([1, 2, 3], [7, 8], generator=seeded(1), **options)
    assert first != draw([1, 2, 3], [7, 8], generator=seeded(2), **options)
    assert torch.random.get_rng_state().equal(state)


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_nothing_is_read_back_from_the_device(kind: str):
    references, lengths = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2])
    vocabulary = torch.arange(9)
    with HostReads() as reads:
        sample_edits(references, lengths, vocabulary=vocabulary, temperature=1.0, kind=kind)
    assert reads.operations == []


@pytest.mark.parametrize("kind", EDIT_KINDS)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_empty_references(kind: str, shape: tuple[int, int]):
    references = torch.zeros(shape, dtype=torch.int64)
    tokens, lengths = sample_edits(
        references, vocabulary=torch.tensor([3, 4]), temperature=1.0, kind=kind
    )
    assert tokens.shape == (shape[0], shape[1] * (2 if kind == "edit" else 1))
    assert lengths.shape == shape[:1]


def test_a_vocabulary_of_the_references_only_token_leaves_hamming_no_choice():
    assert set(draw([4, 4], [4], 50, temperature=10.0, kind="hamming")) == {(4, 4)}


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_the_dtype_of_the_references_is_kept(kind: str):
    references = torch.tensor([[5, 6]], dtype=torch.int32)
    tokens, _ = sample_edits(references, vocabulary=torch.arange(3), temperature=1.0, kind=kind)
    assert tokens.dtype == torch.int32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0; got 0.0: train on the references"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"kind": "bleu"}, "kind must be one of hamming, edit; got 'bleu'"),
        (
            {"references": torch.zeros(3, dtype=torch.int64)},
            r"references must be \[batch, length\]",
        ),
        ({"references": torch.zeros(2, 3)}, "references must hold integer token ids"),
        ({"lengths": torch.tensor([1])}, r"lengths must have shape \[2\]; got \[1\]"),
        ({"vocabulary": torch.zeros(0, dtype=torch.int64)}, "vocabulary must be a 1-D tensor"),
        ({"vocabulary": torch.zeros(2, 2, dtype=torch.int64)}, "vocabulary must be a 1-D tensor"),
        ({"vocabulary": torch.zeros(2)}, "vocabulary must be a 1-D tensor .* got torch.float32"),
    ],
)
def test_bad_input(arguments: dict, message: str):
    given = {
        "references": torch.zeros(2, 3, dtype=torch.int64),
        "vocabulary": torch.arange(4),
        "temperature": 1.0,
    } | arguments
    with pytest.raises(ValueError, match=message):
        sample_edits(given.pop("references"), given.pop("lengths", None), **given)
