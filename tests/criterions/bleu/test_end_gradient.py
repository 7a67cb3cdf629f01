"""Where the gradient of expected BLEU wants ``</s>``: the table of docs/objectives.md."""

import pytest
import torch

from criterions import expected_bleu

SENTENCES, LENGTH, VOCABULARY, EOS = 64, 12, 50, 0
DESCENTS = {  # (</s> is a token of the n-grams) -> (before the end, at the end)
    False: (-0.0357, 0.0001),
    True: (-0.0360, 0.0079),
}


@pytest.mark.parametrize("count_eos", DESCENTS)
def test_the_descent_on_the_logits_of_eos(count_eos: bool):
    """Probability .6 for each right token and for the end, .02 for an early ``</s>``."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, VOCABULARY, (SENTENCES, LENGTH), generator=generator)
    target = torch.cat([words, torch.full((SENTENCES, 1), EOS)], dim=1).unsqueeze(2)
    probabilities = torch.full((SENTENCES, LENGTH + 1, VOCABULARY), 0.38 / (VOCABULARY - 2))
    probabilities[..., EOS] = 0.02
    probabilities.scatter_(2, target, 0.6)
    logits = (probabilities / probabilities.sum(-1, keepdim=True)).log().requires_grad_()
    p = logits.softmax(-1)
    score = expected_bleu(
        p.gather(2, words.unsqueeze(1).expand(-1, LENGTH + 1, -1)),
        words,
        eos_probabilities=p[..., EOS],
        count_eos=count_eos,
    )
    (gradient,) = torch.autograd.grad(score, logits)
    descent = gradient[..., EOS].sum(0)
    before, at_end = DESCENTS[count_eos]
    assert descent[:LENGTH].sum().item() == pytest.approx(before, abs=2e-3)
    assert descent[LENGTH].item() == pytest.approx(at_end, abs=5e-4)


@pytest.mark.parametrize("hazard", [0.3, 0.7])
def test_length_follows_the_more_probable_decision(hazard: float):
    """A model that equals the distribution of the data, whose sentences have random lengths.

    After four words a sentence ends with probability ``hazard`` at each position. Descending moves
    any such model towards its mode: with ``</s>`` in the n-grams that holds for the length, too.
    """
    generator = torch.Generator().manual_seed(0)
    positions, sentences = 9, 2000
    eos = torch.zeros(positions)
    eos[4:-1], eos[-1] = hazard, 1 - 1e-6
    words = torch.full((positions, VOCABULARY - 1), 0.4 / (VOCABULARY - 2))
    words[torch.arange(positions), torch.arange(positions)] = 0.6
    data = torch.multinomial(words, sentences, replacement=True, generator=generator).T + 1
    lengths = (torch.rand(sentences, positions, generator=generator) < eos).int().argmax(1)
    references = torch.where(torch.arange(positions) < lengths.unsqueeze(1), data, 1)[:, :-1]
    logits = torch.cat([eos.unsqueeze(1), (1 - eos).unsqueeze(1) * words], 1).log()
    p = logits.requires_grad_().softmax(-1)
    length = (1 - p[:, EOS]).cumprod(0).sum()
    score = expected_bleu(
        p[:, references].transpose(0, 1),
        references,
        lengths=lengths + 1,
        reference_lengths=lengths,
        eos_probabilities=p[:, EOS].expand(sentences, -1),
        count_eos=True,
    )
    (ascent,) = torch.autograd.grad(score, logits, retain_graph=True)
    (longer,) = torch.autograd.grad(length, logits)
    change = float((ascent * longer).sum())
    assert change < -1e-3 if hazard > 0.5 else change > 1e-3
