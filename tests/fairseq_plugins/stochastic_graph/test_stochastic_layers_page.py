"""The code of docs/stochastic_layers.md, as it stands there."""

import importlib
import math
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from console_scripts import REPOSITORY, Started
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq_setup import logged_metrics, setup
from training_flags import QUIET, TRANSFORMER

PAGE = (REPOSITORY / "docs" / "stochastic_layers.md").read_text(encoding="utf-8")
PACKAGES = {"hard_attention": "transformer", "hard_attention_lstm": "lstm"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def write_packages(folder: Path) -> None:
    for name, code in zip(PACKAGES, blocks("python"), strict=True):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code, encoding="utf-8")


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory):
    """Builds a model of the page with a criterion, in this process."""
    folder = tmp_path_factory.mktemp("user_dirs")
    write_packages(folder)
    sys.path.insert(0, str(folder))
    for name in PACKAGES:
        importlib.import_module(name)
    sys.path.remove(str(folder))

    def build(name, **options):
        arch = PACKAGES[name]
        flags = ("--arch", name)
        return setup(corpus, arch, flags=flags, name="stochastic_graph", **options)

    return build


def test_training_and_translating_as_the_page_says(corpus, tmp_path):
    """In processes that have not seen the plugin: the page's package imports it."""
    write_packages(tmp_path)
    (commands,) = blocks("bash")
    train, generate = (
        shlex.split(line) for line in commands.replace("\\\n", " ").strip().splitlines()
    )
    places = {
        "data-bin": corpus,
        "hard_attention": tmp_path / "hard_attention",
        "checkpoints/checkpoint_best.pt": tmp_path / "checkpoint_best.pt",
    }

    def run(command, *flags):
        script, *arguments = command
        after_arch = False
        given = []
        for argument in arguments:
            given.append(argument if after_arch else places.get(argument, argument))
            after_arch = argument == "--arch"
        log = tmp_path / f"{script}.log"
        return Started(script, *given, *flags, log=log).output()

    sizes = TRANSFORMER[TRANSFORMER.index("--encoder-layers") :]
    trained = run(train, *sizes, *QUIET, "--save-dir", tmp_path, "--max-update", 3)
    updates = [line for line in trained.splitlines() if "| train_inner |" in line]
    assert len(updates) == 3
    for name in ("entropy", "log_prob", "baseline", "advantage", "advantage_variance"):
        assert all(f"{name}_attention=" in line for line in updates), name
    assert "valid on 'valid' subset" in trained
    translated = run(generate, "--cpu", "--gen-subset", "valid")
    assert len(re.findall(r"^H-\d+", translated, flags=re.MULTILINE)) == 8


@pytest.mark.parametrize("name", list(PACKAGES))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layer_estimator": "gumbel_softmax"},
        {"layer_estimator": "straight_through"},
        {"layer_estimator": "expectation"},
        {"objective": "reinforce"},
        {"objective": "leave_one_out", "samples": 3, "layer_baseline": "leave_one_out"},
        {"objective": "scheduled_sampling"},
        {"objective": "minimum_risk", "layer_estimator": "straight_through"},
    ],
    ids=str,
)
def test_the_models_of_the_page_train_with_other_flags(built, name, options):
    made = built(name, **options)
    sample = made.batch(*range(6))
    for _ in range(2):
        loss, gradients, logged = made.gradient(sample)
    assert math.isfinite(loss)
    assert all(bool(value.isfinite().all()) for value in gradients.values())
    assert sum(float(value.abs().sum()) for value in gradients.values()) > 0
    scored = "layer_estimator" not in options
    shown = logged_metrics(made.criterion, logged)
    assert ("entropy_attention" in shown) == scored
    if scored:
        assert shown["entropy_attention"] > 0


def test_the_choice_alone_trains_the_lstms_query(built):
    """Its projection is read by the distribution only: its gradient is the score function's."""
    name = "decoder.attention.input_proj.weight"
    sample = built("hard_attention_lstm").batch(*range(6))
    for estimator, trains in [("score_function", True), ("none", False)]:
        made = built("hard_attention_lstm", layer_estimator=estimator)
        gradient = made.gradient(sample)[1][name]
        assert bool(gradient.abs().sum() > 0) == trains


@pytest.mark.parametrize("name", list(PACKAGES))
@pytest.mark.parametrize("feed", ["soft", "gumbel"])
def test_relaxed_feeding_of_a_decoder_with_layers_is_refused(built, name, feed):
    made = built(name, feed=feed)
    with pytest.raises(ValueError, match=r"'attention'.* is in the decoder, which relaxed feeding"):
        made.gradient(made.batch(0, 1))


def test_checkpointed_layers_beside_a_stochastic_one_do_no_harm(corpus, built):
    made = built("hard_attention")
    checkpointed = setup(
        corpus,
        flags=("--arch", "hard_attention", "--checkpoint-activations"),
        name="stochastic_graph",
        weights=made.model.state_dict(),
    )
    gradients = []
    for one in (made, checkpointed):
        torch.manual_seed(4)
        gradients.append(one.gradient(made.batch(*range(6)))[1])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_stochastic_layer_that_is_checkpointed_is_refused(built):
    made = built("hard_attention_lstm")
    checkpoint_wrapper(made.model.decoder.attention)
    with pytest.raises(RuntimeError, match=r"'attention' at step 0 .*--checkpoint-activations"):
        made.gradient(made.batch(0, 1))
