"""Models with stochastic attention in fairseq: criterions, validation and the beam search."""

import re
import shlex
from argparse import Namespace

import pytest
import torch
from console_scripts import REPOSITORY
from fairseq import options
from fairseq_setup import logged_metrics, setup

from fairseq_plugins.models.stochastic_attention.choice import KINDS

ARCHITECTURES = ("lstm", "transformer")
LAST_HEAD = {"attention_in_layers": "0", "attention_in_heads": "1"}
SCORES = {
    "lstm": "decoder.attention.input_proj.weight",
    "transformer": "encoder_attn.q_proj.weight",
}
"""Parameters that the choice of a position depends on, and nothing else."""

architectures = pytest.mark.parametrize("arch", ARCHITECTURES)


def built(corpus, arch, kind, name="stochastic_graph", weights=None, model=None, **options):
    """As ``setup``, which parses one command line for all kinds.

    Args:
        kind: of ``--attention``.
        model: more of the model's arguments.
        options: of the criterion.
    """
    flags = ("--arch", f"stochastic_attention_{arch}")
    made = setup(corpus, arch, flags=flags, name=name, **options)
    where = LAST_HEAD if (arch, kind) == ("transformer", "exact") else {}
    changed = {"attention": kind, **where, **(model or {})}
    torch.manual_seed(7)
    made.model = made.task.build_model(Namespace(**{**vars(made.config.model), **changed}))
    if weights is not None:
        made.model.load_state_dict(weights)
    return made


def of_scores(arch, gradients):
    return sum(float(g.norm()) for name, g in gradients.items() if name.endswith(SCORES[arch]))


@architectures
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_with_the_graph(corpus, arch, kind):
    model = built(corpus, arch, kind)
    _, gradients, logged = model.gradient(model.batch(0, 3, 9))
    assert all(g.isfinite().all() for g in gradients.values())
    # The likeliest position does not move with the scores: greedy attention does not train them.
    assert (of_scores(arch, gradients) > 0) == (kind != "greedy")
    node = "attention" if arch == "lstm" else "attention.layer0"
    metrics = logged_metrics(model.criterion, logged)
    for statistic in ("entropy", "log_prob", "baseline", "advantage"):
        assert (f"{statistic}_{node}" in metrics) == (kind == "hard")


@architectures
@pytest.mark.parametrize("kind", ["soft", "hard", "greedy", "exact"])
def test_decoded_outputs_train_every_kind_that_has_an_outcome(corpus, arch, kind):
    """Two samples of each source; a score term for what was drawn, and for nothing else."""
    flags = {"objective": "leave_one_out", "samples": 2, "max_decode_length": 5}
    flags |= {"layer_baseline": "leave_one_out"}
    model = built(corpus, arch, kind, **flags)
    sources = model.batch(0, 3, 9)
    for _ in range(2):  # the first batch shows whether there are layers
        _, gradients, logged = model.gradient(sources)
    assert all(g.isfinite().all() for g in gradients.values())
    assert any("log_prob" in name and "attention" in name for name in logged) == (kind == "hard")


@architectures
@pytest.mark.parametrize("kind", ["gumbel", "gumbel_st"])
def test_noise_that_cannot_be_replayed_is_refused(corpus, arch, kind):
    model = built(corpus, arch, kind, objective="reinforce")
    with pytest.raises(ValueError, match=r"the layer's own estimator.*'attention.*no outcome"):
        model.gradient(model.batch(0))


@architectures
@pytest.mark.parametrize("tied", [False, True])
def test_a_learned_baseline_has_no_state_to_read_under_exact_attention(corpus, arch, tied):
    """Nor where the embeddings serve as the output layer, and features could be had."""
    options = {"objective": "reinforce", "baseline": "learned", "baseline_state_dim": 16}
    shares = {"share_decoder_input_output_embed": tied}
    model = built(corpus, arch, "exact", model=shares, **options)
    with pytest.raises(ValueError, match=r"--baseline learned.*--attention exact"):
        model.gradient(model.batch(0))
    model = built(corpus, arch, "hard", model=shares, **options)
    assert all(g.isfinite().all() for g in model.gradient(model.batch(0))[1].values())


@architectures
@pytest.mark.parametrize("kind", ["greedy", "exact", "hard"])
def test_relaxed_feeding_goes_with_what_draws_nothing(corpus, arch, kind):
    model = built(corpus, arch, kind, objective="soft_feeding")
    if kind == "hard":
        with pytest.raises(ValueError, match="is in the decoder, which relaxed feeding"):
            model.gradient(model.batch(0, 3))
    else:
        gradients = model.gradient(model.batch(0, 3))[1]
        assert all(g.isfinite().all() for g in gradients.values())


@architectures
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("criterion", ["label_smoothed_cross_entropy", "expected_bleu"])
def test_criterions_without_a_graph(corpus, arch, kind, criterion):
    model = built(corpus, arch, kind, name=criterion)
    sources = model.batch(0, 3, 9)
    if kind == "hard":
        with pytest.raises(ValueError, match=r"--attention hard.*--criterion stochastic_graph"):
            model.gradient(sources)
        return
    gradients = model.gradient(sources)[1]
    assert all(g.isfinite().all() for g in gradients.values())
    assert (of_scores(arch, gradients) > 0) == (kind != "greedy")


@architectures
def test_validation_draws_nothing_unless_asked_to(corpus, arch):
    def losses(**arguments):
        model = built(corpus, arch, "hard", model=arguments)
        model.model.eval()
        sources = model.batch(*range(8))
        torch.manual_seed(1)
        return [float(model.log(sources)["loss"]) for _ in range(2)]

    first, second = losses()
    assert first == second
    first, second = losses(attention_in_evaluation="sample")
    assert first != second


@architectures
@pytest.mark.parametrize("kind", KINDS)
def test_the_beams_scores_are_those_of_the_model(corpus, learnt, arch, kind):
    """Positional scores of fairseq's generator against one pass over the hypothesis."""
    model = built(corpus, arch, kind, weights=learnt(arch))
    model.model.eval()
    sources = model.batch(0, 5, 11)
    generator = model.task.build_generator([model.model], model.config.generation)
    hypotheses = model.task.inference_step(generator, [model.model], sources)
    eos, pad = model.task.target_dictionary.eos(), model.task.target_dictionary.pad()
    fed = sources["net_input"]["prev_output_tokens"].new_full((3, 40), pad)
    for row, (best, *_) in enumerate(hypotheses):
        tokens = best["tokens"]
        fed[row, : len(tokens)] = torch.cat([tokens.new_tensor([eos]), tokens[:-1]])
    with torch.no_grad():
        output = model.model(**{**sources["net_input"], "prev_output_tokens": fed})
        log_probs = model.model.get_normalized_probs(output, log_probs=True)
    for row, (best, *_) in enumerate(hypotheses):
        tokens = best["tokens"]
        expected = log_probs[row, range(len(tokens)), tokens]
        assert len(tokens) > 2
        torch.testing.assert_close(best["positional_scores"], expected, rtol=1e-4, atol=1e-4)


def test_the_commands_of_the_page_are_understood():
    page = (REPOSITORY / "docs" / "stochastic_attention.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"^```bash\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    *trainings, generation = map(shlex.split, commands.replace("\\\n", " ").strip().splitlines())
    parsed = [
        options.parse_args_and_arch(options.get_training_parser(), command)
        for _, *command in trainings
    ]
    assert [args.attention for args in parsed] == ["soft", "hard"]
    assert parsed[1].finetune_from_model == f"{parsed[0].save_dir}/checkpoint_best.pt"
    options.parse_args_and_arch(options.get_generation_parser(), generation[1:])
