"""``--feed greedy`` of a non-autoregressive model: candidates of the length that it predicts."""

from argparse import Namespace

import pytest
import torch
from fairseq_setup import ORDERS, evaluating
from non_autoregressive_models import (
    clipped_matches,
    enumerated_matches,
    heads_of,
    learn,
    learnt_weights,
    logged_by,
    nat_setup,
    noisy,
)

ARCHITECTURES = ["nonautoregressive_transformer", "cmlm_transformer"]


def of_greedy(corpus, arch, **options):
    return nat_setup(corpus, arch, weights=learnt_weights(corpus, arch), feed="greedy", **options)


def decoded(built, sample):
    """Tokens of fairseq's own generator after one pass."""
    generator = built.task.build_generator([built.model], Namespace(iter_decode_max_iter=0))
    hypotheses = generator.generate([built.model], sample)
    built.model.train()
    return [best["tokens"] for best, *_ in hypotheses]


def generated(built, sample):
    """The same without the first and the last, ``<s>`` and ``</s>``."""
    return [tokens.tolist()[1:-1] for tokens in decoded(built, sample)]


def words(built, sample):
    dictionary = built.task.target_dictionary
    ends = (dictionary.bos(), dictionary.eos(), dictionary.pad())
    return [[token for token in row if token not in ends] for row in sample["target"].tolist()]


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_certain_model_gets_the_counts_of_what_fairseq_generates(
    corpus, arch, validation, prefix
):
    built = of_greedy(corpus, arch, ignore_prefix_size=prefix)
    special = built.task.target_dictionary.nspecial - 1
    project = built.model.decoder.output_layer
    built.model.decoder.output_layer = lambda features: 1e5 * project(features)
    sample = noisy(built, *range(20, 28))
    outputs, references = (
        [tokens[prefix:] for tokens in each]
        for each in (generated(built, sample), words(built, sample))
    )
    pairs = list(zip(outputs, references, strict=True))
    assert any(len(output) != len(reference) for output, reference in pairs)
    if validation:
        with evaluating(built):
            logged = logged_by(built, sample)
    else:
        logged = logged_by(built, sample)
    matches = torch.tensor([clipped_matches(*pair, special) for pair in pairs]).sum(0)
    assert matches[0] > 0
    assert [float(logged[f"expected_matches_{n}"]) for n in ORDERS] == pytest.approx(
        matches.tolist(), rel=1e-4
    )
    assert float(logged["expected_length"]) == sum(map(len, outputs))
    assert float(logged["reference_length"]) == sum(map(len, references))
    for order in ORDERS:
        totals = sum(max(len(output) - order + 1, 0) for output in outputs)
        assert float(logged[f"expected_totals_{order}"]) == totals


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_unsure_model_gets_the_expectation_over_all_outcomes(corpus, arch):
    built = of_greedy(corpus, arch, max_decode_length=4)
    dictionary = built.task.target_dictionary
    sample = noisy(built, 8, 14, 15, 21)  # three to five words
    expected, lengths, distributions = torch.zeros(len(ORDERS)), [], []
    references = words(built, sample)
    for source, reference in zip(sample["net_input"]["src_tokens"], references, strict=True):
        source = source[source.ne(dictionary.pad())].unsqueeze(0)
        with torch.no_grad():
            state = built.model.encoder(source, src_lengths=torch.tensor([source.size(1)]))
            predicted = built.model.decoder.forward_length(normalize=True, encoder_out=state)
            length = min(int(predicted.argmax()) - 2, 4)
            masks = [dictionary.bos(), *[dictionary.unk()] * length, dictionary.eos()]
            distribution = built.model.decoder(
                normalize=True, prev_output_tokens=torch.tensor([masks]), encoder_out=state
            )[0, 1:-1].double()
        lengths.append(length)
        distributions.append(distribution.exp())
        matches = enumerated_matches(
            reference, distributions[-1], [False] * length, dictionary.nspecial - 1
        )
        expected += torch.tensor(matches)
    assert any(length != len(each) for length, each in zip(lengths, references, strict=True))
    assert sum(float(distribution.max(1).values.min()) < 0.9 for distribution in distributions) >= 2
    logged = logged_by(built, sample)
    actual = torch.tensor([float(logged[f"expected_matches_{order}"]) for order in ORDERS])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert float(logged["expected_length"]) == sum(lengths)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_losses_beside_bleu_stay(corpus, arch):
    greedy = of_greedy(corpus, arch)
    teacher = nat_setup(corpus, arch, weights=learnt_weights(corpus, arch))
    sample = noisy(greedy, *range(6))
    ours, theirs = logged_by(greedy, sample), logged_by(teacher, sample)
    for name in ("nll_loss", "nll_loss_count", "length_loss", "length_loss_count"):
        assert float(ours[name]) == float(theirs[name])


COPIED_SOURCE = ("--src-embedding-copy", "--left-pad-source")


@pytest.mark.parametrize("flags", [(), COPIED_SOURCE], ids=["masks", "copied source"])
def test_the_flags_of_decoding_bound_the_length(corpus, flags):
    built = of_greedy(corpus, ARCHITECTURES[0], max_decode_length=2, flags=flags)
    sample = noisy(built, *range(6))
    assert min(map(len, generated(built, sample))) > 2
    assert float(logged_by(built, sample)["expected_length"]) == 2 * 6


@pytest.mark.parametrize("positions", [("--decoder-learned-pos",), ()], ids=["learnt", "sine"])
def test_the_positions_of_the_model_bound_the_length(corpus, positions):
    """Ten words, ``<s>`` and ``</s>``; by its length and the flags of decoding it could be more."""
    flags = (*positions, "--max-target-positions", 12)
    built = nat_setup(corpus, ARCHITECTURES[0], flags=flags, feed="greedy")
    predict = built.model.decoder.forward_length_prediction

    def hundred(length_out, encoder_out, tgt_tokens=None):
        lengths = predict(length_out, encoder_out, tgt_tokens)
        return lengths if tgt_tokens is not None else torch.full_like(lengths, 100)

    built.model.decoder.forward_length_prediction = hundred
    _, gradients, logged = built.gradient(noisy(built, *range(6)))
    assert float(logged["expected_length"]) == 10 * 6
    assert gradients["decoder.layers.0.fc1.weight"].abs().max() > 0


def test_the_length_is_predicted_without_dropout_and_modes_stay(corpus):
    arch = ARCHITECTURES[0]
    weights = learnt_weights(corpus, arch)
    built = nat_setup(corpus, arch, weights=weights, feed="greedy", flags=("--dropout", 0.5))
    sample = noisy(built, *range(20, 28))
    lengths = {float(logged_by(built, sample, seed)["expected_length"]) for seed in range(5)}
    assert lengths == {float(sum(map(len, generated(built, sample))))}
    assert all(module.training for module in built.model.modules())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_decoder_gets_a_gradient(corpus, arch):
    built = of_greedy(corpus, arch, cross_entropy_weight=0.0)
    gradient = built.gradient(noisy(built, *range(20, 28)))[1]["decoder.layers.0.fc1.weight"]
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_rows_are_those_of_the_masks_alone(corpus):
    """``cmlm_transformer`` shows the decoder nothing of the reference then."""
    built = of_greedy(corpus, "cmlm_transformer")
    sample = noisy(built, *range(6))
    shown = dict(sample, prev_target=sample["target"])
    ours, theirs = logged_by(built, sample), logged_by(built, shown)
    assert heads_of(built, shown)["word_ins"]["mask"].sum() == 0
    for order in ORDERS:
        assert float(ours[f"expected_matches_{order}"]) == pytest.approx(
            float(theirs[f"expected_matches_{order}"]), rel=1e-5
        )


@pytest.mark.parametrize("feed", ["teacher", "greedy"])
def test_bleu_without_cross_entropy_leaves_the_ends_without_words(corpus, feed):
    """The text that ``fairseq-generate`` prints is as long as the candidate that is logged."""
    arch = ARCHITECTURES[0]
    weights = learnt_weights(corpus, arch)
    built = nat_setup(corpus, arch, weights=weights, feed=feed, cross_entropy_weight=0.0)
    sample = noisy(built, *range(16))
    # Half-way, a model that has no other loss of its words may still take <s> for one of them.
    learn(built, sample, steps=120, learning_rate=0.01)
    with evaluating(built):
        logged = logged_by(built, sample)
    dictionary, outputs = built.task.target_dictionary, decoded(built, sample)
    text = map(dictionary.string, outputs)
    assert sum(len(line.split()) for line in text) == float(logged["expected_length"])
    assert {int(tokens[0]) for tokens in outputs} == {dictionary.bos()}
    assert {int(tokens[-1]) for tokens in outputs} == {dictionary.eos()}
