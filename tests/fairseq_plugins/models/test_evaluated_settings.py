"""fairseq runs some settings as code: a checkpoint's must not be any code."""

import copy

import pytest
from fairseq_setup import setup
from non_autoregressive_models import nat_setup

CODE = "__import__('builtins').exit(3)"
WARM = "warm_started_nonautoregressive_transformer"
OF_LSTM = ("actor_lstm", "stochastic_attention_lstm")
OF_TRANSFORMER = (
    *("actor_transformer", "latent_transformer", "stochastic_attention_transformer"),
    WARM,
)


@pytest.mark.parametrize("arch", [*OF_LSTM, *OF_TRANSFORMER])
def test_code_in_a_setting_is_refused(corpus, arch):
    base = "lstm" if arch in OF_LSTM else "transformer"
    built = nat_setup(corpus, WARM) if arch == WARM else setup(corpus, base, flags=("--arch", arch))

    def build(name, value, criterion):
        settings = copy.copy(built.config.model)
        settings.criterion = criterion
        setattr(settings, name, value)
        return built.task.build_model(settings)

    with pytest.raises(ValueError, match="--adaptive-softmax-cutoff must be integers"):
        build("adaptive_softmax_cutoff", CODE, "adaptive_loss")
    build("adaptive_softmax_cutoff", "4,8", "adaptive_loss")
    if arch in OF_LSTM:
        with pytest.raises(ValueError, match="--decoder-attention must be True or False"):
            build("decoder_attention", CODE, "expected_bleu")
        build("decoder_attention", "True", "expected_bleu")
