"""The flags of ``--criterion stochastic_graph``, each declared once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum
from omegaconf import II

from criterions.bleu.statistics import SMOOTHINGS
from criterions.candidate_losses import CANDIDATE_LOSSES
from criterions.checks import check_choice
from criterions.edit_distance_sampling import EDIT_KINDS
from criterions.reward_shaping import NORMALIZATIONS
from criterions.stochastic_graph import BASELINES, ESTIMATORS
from fairseq_plugins.flags import SCHEDULE, SENTENCE_ENDS, option
from fairseq_plugins.parallel_training import ParallelTrainingConfig
from fairseq_plugins.rewards import LEVELS, reward_help
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES
from fairseq_plugins.stochastic_graph.token_estimators import TOKEN_ESTIMATORS

RELAXED_FEEDS = {
    "soft": "pathwise",
    "gumbel": "pathwise",
    "gumbel_st": "straight_through",
    "straight_through": "straight_through",
}
"""Values of ``--feed`` of a decoder that is fed vectors, and the ``--estimator`` of each."""

_OTHER_ESTIMATORS = ("pathwise", "straight_through", "candidate_set")


def _preset(default: object, text: str) -> Any:
    """A flag that ``--objective`` may set where the user does not; else it has ``default``."""
    text = f"{text} [default: that of --objective]"
    return field(default=None, metadata={"help": text, "unset": default})


@dataclass
class StochasticGraphCriterionConfig(ParallelTrainingConfig):
    """Flags of ``--criterion stochastic_graph``; None where ``--objective`` decides."""

    objective: str = option(
        "cross_entropy",
        "a published objective, which sets those of the flags below that are not given (see "
        "docs/objectives.md): " + ", ".join(OBJECTIVES),
    )

    feed: Optional[ChoiceEnum(["teacher", "greedy", "sample", *RELAXED_FEEDS])] = _preset(
        "teacher",
        "what the decoder reads in the next step: the reference's token (teacher); its own greedy "
        "or sampled token; or, with gradient, its probabilities (soft), a relaxed sample (gumbel), "
        "or a sample with a straight-through gradient (gumbel_st, straight_through)",
    )
    teacher_forcing: Optional[str] = _preset(
        "0",
        "probability that the reference's token is read all the same (scheduled sampling); "
        + SCHEDULE,
    )
    teacher_prefix: Optional[str] = _preset(
        "0",
        "tokens from the start of the reference that are always read (MIXER); the extra "
        f"cross-entropy is taken over these; {SCHEDULE}",
    )
    unroll: Optional[ChoiceEnum(["step_by_step", "two_pass"])] = _preset(
        "step_by_step",
        "relaxed feeding step by step, or approximated by two parallel passes (two_pass)",
    )
    relaxation_temperature: Optional[str] = _preset("1", f"of soft and Gumbel feeding; {SCHEDULE}")
    target: Optional[ChoiceEnum(["reference", "raml"])] = _preset(
        "reference", "target of the cross-entropy: the reference, or edits of it (raml)"
    )
    raml_distance: Optional[ChoiceEnum(list(EDIT_KINDS))] = _preset(
        "edit", "which edits raml samples"
    )
    raml_temperature: Optional[float] = _preset(
        0.85,
        "of raml's exponentiated payoff, in units of 1 + log(vocabulary); fewer edits if small",
    )

    emit: Optional[ChoiceEnum(["sample", "greedy"])] = _preset(
        "sample",
        "how the rewarded tokens are chosen: drawn, or the most probable ones (greedy), where the "
        "score terms are those of the model's stochastic layers",
    )
    samples: Optional[int] = _preset(
        1, "outputs that are drawn for each source, by tokens or layers"
    )
    sample_temperature: Optional[float] = _preset(
        1.0, "logits are divided by it where tokens are drawn"
    )
    sample_topk: Optional[int] = _preset(
        0, "draw from the most probable K tokens, 0 means from all"
    )
    sample_topp: Optional[float] = _preset(
        1.0, "draw from the most probable tokens of this total mass"
    )
    sample_dropout: Optional[ChoiceEnum(["off", "scoring", "both"])] = _preset(
        "off",
        "dropout in sampling and in the pass that scores the samples: off in both (the estimator "
        "is unbiased for the model without dropout), on in scoring only, or on in both",
    )

    cost: Optional[str] = _preset(
        "cross_entropy",
        "what is minimised: cross_entropy, expected_bleu (1 - BLEU) or reward (1 - reward)",
    )
    reward: Optional[str] = _preset("sentence_bleu", reward_help())
    reward_level: Optional[ChoiceEnum(list(LEVELS))] = _preset(
        "tokens", "rewards of token ids, on their device, or of detokenised text"
    )
    reward_normalization: Optional[ChoiceEnum(list(NORMALIZATIONS))] = _preset(
        "none",
        "subtract the mean and divide by the standard deviation of the rewards of the batch, or "
        "of each source's samples (group)",
    )
    credit: Optional[ChoiceEnum(["whole", "reward_to_go"])] = _preset(
        "whole",
        "cost that a token answers for: the whole, or what it and later tokens add (reward_to_go)",
    )
    estimator: Optional[ChoiceEnum(["none", *TOKEN_ESTIMATORS.names, *_OTHER_ESTIMATORS])] = (
        _preset("none", "of the gradient through the choice of tokens")
    )
    baseline: Optional[ChoiceEnum(list(BASELINES.names))] = _preset(
        "none", "subtracted from the cost of a sampled token"
    )
    candidate_loss: Optional[ChoiceEnum(list(CANDIDATE_LOSSES))] = _preset(
        "risk", "loss over a set of candidates"
    )
    candidate_sharpness: Optional[float] = _preset(0.005, "alpha of the risk over candidates")
    candidate_reference: Optional[bool] = _preset(False, "add the reference to the candidates")
    cross_entropy_weight: Optional[float] = _preset(
        0.0, "weight of the teacher-forced cross-entropy added to another cost"
    )
    label_smoothing: Optional[float] = _preset(0.0, "epsilon of the cross-entropy, 0 means none")

    baseline_decay: float = option(
        0.99, "of moving averages, per batch (with --update-freq N, N times an update)"
    )
    baseline_state_dim: Optional[int] = option(
        None, "size of the decoder's state that --baseline learned reads, if the model cannot tell"
    )
    layer_estimator: ChoiceEnum(list(ESTIMATORS.names)) = option(
        "score_function", "for stochastic layers in the model that ask for none themselves"
    )
    layer_baseline: ChoiceEnum(["none", "moving_average", "leave_one_out", "greedy"]) = option(
        "moving_average", "of --layer-estimator score_function"
    )
    reward_clip: Optional[str] = option(
        None, "LOW:HIGH, bounds of the (normalised) rewards; either may be left out"
    )
    reward_workers: int = option(0, "processes that score text with sacrebleu, 0 means none")
    reward_remove_bpe: Optional[str] = option(
        None, "segmentation to undo before text is rewarded: sentencepiece, subword_nmt, ..."
    )
    reward_detok: str = option("space", "fairseq tokenizer whose work is undone (moses, ...)")
    reward_detok_args: str = option("{}", "JSON object of its options")
    reward_sacrebleu_tokenizer: str = option("13a", "sacrebleu's, for BLEU and GLEU of text")
    max_order: int = option(4, "highest n-gram order of BLEU and GLEU")
    smoothing: ChoiceEnum(list(SMOOTHINGS)) = option(
        "add-k", "of BLEU, see --criterion expected_bleu"
    )
    sentence_end: ChoiceEnum(["auto", *SENTENCE_ENDS]) = option(
        "auto",
        "n-grams that end in </s> count in expected BLEU and in rewards of tokens (ngram), or do "
        "not (ignore); auto is ngram for expected BLEU and ignore for rewards",
    )
    max_decode_ratio: float = option(
        2.0, "outputs have at most this many times the source's tokens, plus 10"
    )
    max_decode_length: int = option(200, "outputs have at most this many tokens")
    ignore_prefix_size: int = option(
        0, "every output starts with the reference's first N tokens, which do not count"
    )
    sentence_avg: bool = II("optimization.sentence_avg")


@dataclass
class Settings(StochasticGraphCriterionConfig):
    """All flags with their values: those given, those of ``--objective``, or the defaults."""

    relaxed: bool = field(init=False)
    """Whether the decoder is fed vectors in place of tokens."""

    emits_greedily: bool = field(init=False)
    """Whether outputs are rewarded whose tokens are no random choice, but the layers' are."""

    records_tokens: bool = field(init=False)
    """Whether tokens that were drawn are nodes of the graph, with a score term."""

    scores_tokens: bool = field(init=False)
    """Whether the pass with gradient has to give the distributions of what was decoded."""

    forces_tokens: bool = field(init=False)
    """Whether some of the reference's tokens are fed whatever the model emits."""

    def __post_init__(self) -> None:
        self.relaxed = self.feed in RELAXED_FEEDS
        self.emits_greedily = self.cost == "reward" and self.emit == "greedy"
        self.records_tokens = self.estimator in TOKEN_ESTIMATORS.names
        self.scores_tokens = (
            self.records_tokens or self.estimator == "candidate_set" or self.emits_greedily
        )
        schedules = (self.teacher_forcing, self.teacher_prefix)
        self.forces_tokens = schedules != ("0", "0") or self.ignore_prefix_size > 0


def resolve(cfg: StochasticGraphCriterionConfig) -> tuple[Settings, set[str]]:
    """Fill in what ``--objective`` sets, and then the defaults.

    Returns:
        the settings, and the names of the flags that the user set; of a flag that no objective
        sets it cannot be told whether its default was given.

    Raises:
        ValueError: there is no such objective.
    """
    # fairseq hands choices over as enumeration members.
    values = {
        known.name: str(value) if isinstance(value := getattr(cfg, known.name), Enum) else value
        for known in fields(StochasticGraphCriterionConfig)
    }
    check_choice("--objective", values["objective"], tuple(OBJECTIVES))
    preset = OBJECTIVES[values["objective"]].flags
    given = set()
    for known in fields(StochasticGraphCriterionConfig):
        if values[known.name] != known.default:
            given.add(known.name)
        elif "unset" in known.metadata:
            values[known.name] = preset.get(known.name, known.metadata["unset"])
    if values["sentence_end"] == "auto":
        values["sentence_end"] = "ignore" if values["cost"] == "reward" else "ngram"
    settings = Settings(**values)
    changed = given & {"feed", "emit", "cost"}
    if "estimator" not in given and (changed or "estimator" not in preset):
        settings = replace(settings, estimator=_usual_estimator(settings, preset))
    return settings, given


def _usual_estimator(settings: Settings, preset: Mapping[str, Any]) -> str:
    """What the cost and the feed leave no choice about, or what is done commonly."""
    if settings.emits_greedily:
        return "none"
    if settings.cost == "reward":
        return "candidate_set" if preset.get("estimator") == "candidate_set" else "score_function"
    if settings.relaxed:
        return RELAXED_FEEDS[settings.feed]
    return "none"
