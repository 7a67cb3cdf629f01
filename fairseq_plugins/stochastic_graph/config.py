"""Flags of ``--criterion stochastic_graph``."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from criterions.bleu.statistics import SMOOTHINGS
from criterions.edit_distance_sampling import EDIT_KINDS
from criterions.reward_shaping import NORMALIZATIONS
from criterions.stochastic_graph import BASELINES, ESTIMATORS
from fairseq_plugins.rewards import LEVELS, reward_help
from fairseq_plugins.stochastic_graph import settings
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES

OBJECTIVE = ChoiceEnum(list(OBJECTIVES))
FEED = ChoiceEnum(list(settings.FEEDS))
UNROLL = ChoiceEnum(list(settings.UNROLLS))
TARGET = ChoiceEnum(list(settings.TARGETS))
RAML_DISTANCE = ChoiceEnum(list(EDIT_KINDS))
EMIT = ChoiceEnum(list(settings.EMITS))
SAMPLE_DROPOUT = ChoiceEnum(list(settings.SAMPLE_DROPOUTS))
COST = ChoiceEnum(list(settings.COSTS))
REWARD_LEVEL = ChoiceEnum(list(LEVELS))
NORMALIZATION = ChoiceEnum(list(NORMALIZATIONS))
CREDIT = ChoiceEnum(list(settings.CREDITS))
ESTIMATOR = ChoiceEnum(list(settings.TOKEN_ESTIMATORS))
BASELINE = ChoiceEnum(list(BASELINES.names))
CANDIDATE_LOSS = ChoiceEnum(list(settings.CANDIDATE_LOSS_NAMES))
LAYER_ESTIMATOR = ChoiceEnum(list(ESTIMATORS.names))
LAYER_BASELINE = ChoiceEnum(list(settings.LAYER_BASELINES))
SMOOTHING = ChoiceEnum(list(SMOOTHINGS))

_SCHEDULE = "; a number, linear:START:END:UPDATES or geometric:START:END:UPDATES"


def _axis(text: str) -> object:
    """A flag that ``--objective`` sets where the user does not."""
    return field(default=None, metadata={"help": f"{text} [default: that of --objective]"})


def _option(default: object, text: str) -> object:
    return field(default=default, metadata={"help": text})


@dataclass
class StochasticGraphCriterionConfig(FairseqDataclass):
    """The axes of the space, and what concerns all points of it."""

    objective: OBJECTIVE = _option(
        "cross_entropy",
        "a published objective: sets the flags below that are not given; see docs/objectives.md",
    )

    feed: Optional[FEED] = _axis(
        "what the decoder reads in the next step: the reference's token (teacher); its own greedy "
        "or sampled token; or, with gradient, its probabilities (soft), a relaxed sample (gumbel), "
        "or a sample with a straight-through gradient (gumbel_st, straight_through)"
    )
    teacher_forcing: Optional[str] = _axis(
        "probability that the reference's token is read all the same (scheduled sampling)"
        + _SCHEDULE
    )
    teacher_prefix: Optional[str] = _axis(
        "tokens from the start of the reference that are always read (MIXER); the extra "
        "cross-entropy is taken over these" + _SCHEDULE
    )
    unroll: Optional[UNROLL] = _axis(
        "relaxed feeding step by step, or approximated by two parallel passes (two_pass)"
    )
    relaxation_temperature: Optional[str] = _axis("of soft and Gumbel feeding" + _SCHEDULE)
    target: Optional[TARGET] = _axis(
        "target of the cross-entropy: the reference, or edits of it (raml)"
    )
    raml_distance: Optional[RAML_DISTANCE] = _axis("which edits raml samples")
    raml_temperature: Optional[float] = _axis(
        "of raml's exponentiated payoff, in units of 1 + log(vocabulary); smaller means fewer edits"
    )

    emit: Optional[EMIT] = _axis(
        "how the rewarded tokens are chosen: drawn, or the most probable ones (greedy), where the "
        "score terms are those of the model's stochastic layers"
    )
    samples: Optional[int] = _axis("outputs that are drawn for each source, by tokens or layers")
    sample_temperature: Optional[float] = _axis("logits are divided by it where tokens are drawn")
    sample_topk: Optional[int] = _axis("draw from the most probable K tokens, 0 means from all")
    sample_topp: Optional[float] = _axis("draw from the most probable tokens of this total mass")
    sample_dropout: Optional[SAMPLE_DROPOUT] = _axis(
        "dropout in sampling and in the pass that scores the samples: off in both (the estimator "
        "is unbiased for the model without dropout), on in scoring only, or on in both"
    )

    cost: Optional[COST] = _axis("what is minimised: cross-entropy, 1 - expected BLEU, 1 - reward")
    reward: Optional[str] = _axis(reward_help())
    reward_level: Optional[REWARD_LEVEL] = _axis(
        "rewards of token ids, on their device, or of detokenised text"
    )
    reward_normalization: Optional[NORMALIZATION] = _axis(
        "subtract the mean and divide by the standard deviation of the rewards of the batch, or "
        "of each source's samples (group)"
    )
    credit: Optional[CREDIT] = _axis(
        "cost that a token answers for: the whole, or what it and later tokens add (reward_to_go)"
    )
    estimator: Optional[ESTIMATOR] = _axis("of the gradient through the choice of tokens")
    baseline: Optional[BASELINE] = _axis("subtracted from the cost of a sampled token")
    candidate_loss: Optional[CANDIDATE_LOSS] = _axis("loss over a set of candidates")
    candidate_sharpness: Optional[float] = _axis("alpha of the risk over candidates")
    candidate_reference: Optional[bool] = field(
        default=None, metadata={"help": "add the reference to the candidates"}
    )
    cross_entropy_weight: Optional[float] = _axis(
        "weight of the teacher-forced cross-entropy added to another cost"
    )
    label_smoothing: Optional[float] = _axis("epsilon of the cross-entropy, 0 means none")

    baseline_decay: float = _option(
        0.99, "of moving averages, per batch (with --update-freq N, N times an update)"
    )
    baseline_state_dim: int = _option(
        512, "size of the decoder's state that --baseline learned reads"
    )
    layer_estimator: LAYER_ESTIMATOR = _option(
        "score_function", "for stochastic layers in the model that ask for none themselves"
    )
    layer_baseline: LAYER_BASELINE = _option(
        "moving_average", "of --layer-estimator score_function"
    )
    reward_clip: Optional[str] = _option(
        None, "LOW:HIGH, bounds of the (normalised) rewards; either may be left out"
    )
    reward_workers: int = _option(0, "processes that score text with sacrebleu, 0 means none")
    reward_remove_bpe: Optional[str] = _option(
        None, "segmentation to undo before text is rewarded: sentencepiece, subword_nmt, ..."
    )
    reward_detok: str = _option("space", "fairseq tokenizer whose work is undone (moses, ...)")
    reward_detok_args: str = _option("{}", "JSON object of its options")
    reward_sacrebleu_tokenizer: str = _option("13a", "sacrebleu's, for BLEU and GLEU of text")
    max_order: int = _option(4, "highest n-gram order of BLEU and GLEU")
    smoothing: SMOOTHING = _option("add-k", "of BLEU, see --criterion expected_bleu")
    max_decode_ratio: float = _option(
        2.0, "outputs have at most this many times the source's tokens, plus 10"
    )
    max_decode_length: int = _option(200, "outputs have at most this many tokens")
    ignore_prefix_size: int = _option(
        0, "every output starts with the reference's first N tokens, which do not count"
    )
    sentence_avg: bool = II("optimization.sentence_avg")
