"""Expected counts of fairseq's non-autoregressive models: the rows are independent, so they are
those of the model itself.
"""

from collections import Counter

import pytest
import torch
from fairseq_setup import ORDERS, statistics_of
from non_autoregressive_models import (
    FAMILIES,
    clipped_matches,
    enumerated_matches,
    heads_of,
    learnt_weights,
    logged_by,
    nat_setup,
    noisy,
    positions_of_words,
)
from sacrebleu.metrics.bleu import BLEU

SAMPLES = 20_000
ENUMERABLE = 5
"""Words; with one symbol for all tokens that the reference has not, 6 ** 5 outcomes."""


@pytest.fixture(scope="module", params=FAMILIES)
def built(request, corpus):
    arch = request.param
    return nat_setup(corpus, arch, weights=learnt_weights(corpus, arch))


def candidates(built, sample):
    """``(reference, probabilities [words, vocab], observed)`` of each candidate, word by word."""
    dictionary = built.task.target_dictionary
    ends = (dictionary.bos(), dictionary.eos(), dictionary.pad())
    words = heads_of(built, sample)["word_ins"]
    for target, mask, logits in zip(words["tgt"], words["mask"], words["out"], strict=True):
        positions = positions_of_words(target.tolist(), ends)
        distribution = logits[positions].double().softmax(-1)
        yield target[positions].tolist(), distribution, (~mask[positions]).tolist()


def logged_matches(logged):
    return [float(logged[f"expected_matches_{order}"]) for order in ORDERS]


@pytest.mark.parametrize(
    ("subset", "indices"), [("train", range(14)), ("test", range(6))], ids=["train", "unknown"]
)
def test_they_equal_enumeration_of_all_outcomes(built, subset, indices):
    special = built.task.target_dictionary.nspecial - 1
    short = partial = 0
    for index in indices:
        sample = noisy(built, index, subset=subset)
        distributions = list(candidates(built, sample))
        free = sum(not known for known in distributions[0][2])
        if len(distributions[0][0]) > ENUMERABLE and free > ENUMERABLE - 1:
            continue
        short += 1
        partial += free < len(distributions[0][0])
        expected = torch.tensor(
            [enumerated_matches(*candidate, special) for candidate in distributions]
        ).sum(0)
        actual = torch.tensor(logged_matches(logged_by(built, sample)))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert short >= 2
    observes = type(built.model).__name__ in (
        "CMLMNATransformerModel",
        "LevenshteinTransformerModel",
    )
    assert bool(partial) == observes


def test_they_are_the_mean_of_what_the_model_says(built):
    """Sampled token by token; within 4.5 standard errors of the mean, for every order."""
    special = built.task.target_dictionary.nspecial - 1
    generator = torch.Generator().manual_seed(11)
    longest_matches = 0.0
    for index in (4, 5):
        sample = noisy(built, index, seed=index)
        means, variances = torch.zeros(len(ORDERS)), torch.zeros(len(ORDERS))
        for reference, distribution, observed in candidates(built, sample):
            drawn = torch.multinomial(distribution, SAMPLES, replacement=True, generator=generator)
            for position, known in enumerate(observed):
                if known:
                    drawn[position] = reference[position]
            # Equal outputs are counted once.
            outputs = Counter(map(tuple, drawn.t().tolist()))
            counts = torch.tensor(
                [clipped_matches(output, reference, special) for output in outputs]
            ).double()
            weight = torch.tensor(list(outputs.values())).double().unsqueeze(1) / SAMPLES
            mean = (weight * counts).sum(0)
            means += mean
            variances += (weight * (counts - mean) ** 2).sum(0) / SAMPLES
        expected = torch.tensor(logged_matches(logged_by(built, sample)))
        longest_matches += float(expected[-1])
        assert ((means - expected).abs() <= 4.5 * variances.sqrt() + 1e-4).all()
    assert longest_matches > 0.01, "matches of order 4 are too rare to tell"


def test_totals_and_lengths_are_those_of_the_reference(built):
    sample = noisy(built, *range(10, 16))
    logged = logged_by(built, sample)
    lengths = torch.tensor([len(reference) for reference, _, _ in candidates(built, sample)])
    assert float(logged["expected_length"]) == float(logged["reference_length"]) == lengths.sum()
    for order in ORDERS:
        totals = (lengths - order + 1).clamp(min=0).sum()
        assert float(logged[f"expected_totals_{order}"]) == totals


@pytest.mark.parametrize("arch", ["nonautoregressive_transformer", "cmlm_transformer"])
@pytest.mark.parametrize("left_pad", [False, True])
def test_padding_does_not_count(corpus, arch, left_pad):
    flags = ("--left-pad-target",) if left_pad else ()
    built = nat_setup(corpus, arch, weights=learnt_weights(corpus, arch, flags), flags=flags)
    pad = built.task.target_dictionary.pad()
    sample = noisy(built, *range(20, 26))
    assert sample["target"].eq(pad).any()
    alone = torch.zeros(2 * len(ORDERS) + 2, dtype=torch.float64)
    for index in range(6):
        exists = sample["target"][index].ne(pad)
        source = sample["net_input"]["src_tokens"][index]
        source = source[source.ne(pad)].unsqueeze(0)
        one = {
            "ntokens": int(exists.sum()),
            "target": sample["target"][index][exists].unsqueeze(0),
            "prev_target": sample["prev_target"][index][exists].unsqueeze(0),
            "net_input": {"src_tokens": source, "src_lengths": torch.tensor([source.size(1)])},
        }
        alone += statistics_of(logged_by(built, one))
    together = statistics_of(logged_by(built, sample))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_an_ignored_prefix_does_not_count(corpus):
    arch = "nonautoregressive_transformer"
    weights = learnt_weights(corpus, arch)
    built = nat_setup(corpus, arch, weights=weights, ignore_prefix_size=2)
    special = built.task.target_dictionary.nspecial - 1
    sample = noisy(built, 2)
    ((reference, distribution, observed),) = candidates(built, sample)
    expected = enumerated_matches(reference[2:], distribution[2:], observed[2:], special)
    logged = logged_by(built, sample)
    assert logged_matches(logged) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert float(logged["expected_length"]) == len(reference) - 2
    # The model has to say the prefix itself, so it stays in the loss of the words.
    assert int(logged["nll_loss_count"]) == len(reference) + 2


def test_sentence_bleu_is_the_mean_over_the_candidates_of_every_pass(corpus):
    """Value of the objective, less what ``nat_loss`` has, by enumeration and sacrebleu."""
    arch = "iterative_nonautoregressive_transformer"
    weights = learnt_weights(corpus, arch)
    options = {"cross_entropy_weight": 1.0, "bleu_level": "sentence"}
    ours = nat_setup(corpus, arch, weights=weights, **options)
    fairseqs = nat_setup(corpus, arch, weights=weights, name="nat_loss")
    special = ours.task.target_dictionary.nspecial - 1
    sample = noisy(ours, 8, 9)  # four and five words
    scores = []
    for reference, distribution, observed in candidates(ours, sample):
        length = len(reference)
        assert 4 <= length <= ENUMERABLE
        score = BLEU.compute_bleu(
            enumerated_matches(reference, distribution, observed, special),
            [length - order + 1 for order in ORDERS],
            *(length, length),
            smooth_method="add-k",
            smooth_value=1,
        )
        scores.append(score.score / 100)
    assert len(scores) == 2 * ours.model.train_step == 4
    assert len({round(score, 3) for score in scores}) == 4
    added = ours.gradient(sample)[0] - fairseqs.gradient(sample)[0]
    assert added == pytest.approx(1 - sum(scores) / len(scores), abs=1e-4)
