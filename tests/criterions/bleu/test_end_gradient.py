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
