"""Values and combinations of flags that would not do what they say are refused."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

from fairseq_plugins.flags import HIGHEST_ORDER, above, as_flag, at_least, below_1
from fairseq_plugins.rewards import flags_of
from fairseq_plugins.stochastic_graph.config import RELAXED_FEEDS, Settings

_AT_LEAST = {
    **dict.fromkeys(("cross_entropy_weight", "max_decode_ratio", "ignore_prefix_size"), 0),
    **dict.fromkeys(("samples", "baseline_state_dim", "max_decode_length"), 1),
}
_OF_SAMPLES = ("sample_temperature", "sample_topk", "sample_topp")
_OF_LENGTHS = ("max_decode_ratio", "max_decode_length")
_OF_TEXT = (
    *("reward_workers", "reward_remove_bpe", "reward_detok", "reward_detok_args"),
    "reward_sacrebleu_tokenizer",
)
_OF_NGRAMS = {"max_order", "smoothing", "sentence_end", "reward_sacrebleu_tokenizer"}
_OF_REWARDS = (
    *("emit", "credit", "reward", "reward_level", "reward_normalization", "reward_clip"),
    *_OF_TEXT,
)


def check_consistent(settings: Settings, given: Collection[str]) -> None:
    """Raise ``ValueError`` for flags that do not go together, and for values out of range.

    Args:
        settings: with all values.
        given: names of the flags that the user set; only these can be without effect.
    """
    without_effect = (
        (name, other, why)
        for names, other, why in _without_effect(settings)
        for name in names
        if name in given
    )
    for first, second, why in itertools.chain(_contradictions(settings), without_effect):
        one, other = (f"{as_flag(name)} {getattr(settings, name)}" for name in (first, second))
        raise ValueError(f"{one} does not go with {other}: {why}")
    for name, smallest in _AT_LEAST.items():
        if (value := getattr(settings, name)) is not None:
            at_least(as_flag(name), value, smallest)
    at_least("--max-order", settings.max_order, 1, at_most=HIGHEST_ORDER)
    for name in ("raml_temperature", "candidate_sharpness"):
        above(as_flag(name), getattr(settings, name), 0)
    for name in ("label_smoothing", "baseline_decay"):
        below_1(as_flag(name), getattr(settings, name))


def _contradictions(s: Settings) -> Iterator[tuple[str, str, str]]:
    """Two flags, and why they do not go together."""
    rewarded, score = s.cost == "reward", s.records_tokens
    normalized = s.reward_normalization != "none"
    if s.target == "raml" and s.cost != "cross_entropy":
        yield "target", "cost", "edited references are targets of the cross-entropy"
    if s.target == "raml" and s.feed != "teacher":
        yield "target", "feed", "edited references are fed as they are: use --feed teacher"
    if s.emits_greedily and s.feed not in ("greedy", "teacher"):
        yield "emit", "feed", "the most probable tokens are rewarded, so feed these: --feed greedy"
    if rewarded and s.emit == "sample" and s.feed == "greedy":
        yield "emit", "feed", "the sampled tokens are rewarded: feed these (sample), or teacher"
    if s.credit == "reward_to_go":
        if normalized:
            yield "credit", "reward_normalization", "full returns are normalised, not increments"
        if s.reward_level != "tokens":
            yield "credit", "reward_level", "prefixes are scored on tokens only"
        if s.estimator == "candidate_set":
            yield "credit", "estimator", "a candidate set compares whole outputs"

    if s.relaxed and not rewarded and s.estimator != RELAXED_FEEDS[s.feed]:
        why = f"the gradient flows through what is fed: use {RELAXED_FEEDS[s.feed]}"
        yield "estimator", "feed", why
    if not s.relaxed and s.estimator in ("pathwise", "straight_through"):
        yield "estimator", "feed", "tokens carry no gradient: use soft, gumbel, gumbel_st, ..."
    if s.emits_greedily and s.estimator != "none":
        yield "estimator", "emit", "only the model's layers are drawn: see --layer-estimator"
    if rewarded and not s.scores_tokens:
        yield (
            *("estimator", "cost"),
            "a reward of discrete outputs has a gradient only through their probabilities: use "
            "score_function or candidate_set",
        )
    if not rewarded and score and s.feed != "sample":
        yield "estimator", "feed", "nothing is sampled; use --feed sample"
    if s.estimator == "candidate_set":
        if not rewarded:
            yield "estimator", "cost", "candidates are compared by their rewards: --cost reward"
        if s.feed != "sample":
            yield "estimator", "feed", "candidates are the model's own outputs: --feed sample"
        if s.samples < 2:
            yield "estimator", "samples", "a set of candidates needs at least 2"
        for name in ("teacher_prefix", "teacher_forcing"):
            if getattr(s, name) != "0":
                yield "estimator", name, "candidates must be wholly the model's own"

    if s.baseline != "none" and s.emits_greedily:
        yield "baseline", "emit", "the score terms are those of the layers: see --layer-baseline"
    if s.baseline != "none" and not score:
        yield (
            *("baseline", "estimator"),
            "a baseline is subtracted in score_function only; with "
            f"--cost {s.cost} --feed {s.feed} the estimator is {s.estimator} unless it is given",
        )
    if s.baseline == "leave_one_out" and s.samples < 2:
        yield "baseline", "samples", "the other samples are the baseline: at least 2"
    if s.baseline == "learned" and s.relaxed:
        yield "baseline", "feed", "relaxed feeding keeps no states; use another baseline"
    for name in ("baseline", "layer_baseline"):
        used = name == "baseline" or s.layer_estimator == "score_function"
        if used and getattr(s, name) == "greedy":
            if not rewarded:
                yield name, "cost", "the greedy output's reward is the baseline: --cost reward"
            if normalized:
                yield (
                    *(name, "reward_normalization"),
                    "a normalised reward does not compare with that of the greedy output",
                )
    if s.reward_normalization == "group" and s.samples < 2:
        yield "reward_normalization", "samples", "a group has at least 2 samples"
    # With the reference as the prefix the model's own layers may draw.
    drawn = s.feed in ("sample", "teacher") or rewarded or s.target == "raml"
    if s.samples > 1 and not drawn:
        yield "samples", "feed", "nothing is sampled, or it is sampled once for each source"
    if s.samples > 1 and s.relaxed:
        yield "samples", "feed", "relaxed feeding has one sample a source"
    for name, off in (("sample_topk", 0), ("sample_topp", 1.0)):
        if score and getattr(s, name) != off:
            yield (
                *(name, "estimator"),
                "a truncated distribution biases it; use candidate_set, or a temperature",
            )


def _without_effect(s: Settings) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Flags that change nothing, the flag that makes them so, and why."""
    rewarded = s.cost == "reward"
    if s.feed == "teacher":
        yield ("teacher_forcing", "teacher_prefix"), "feed", "the reference is fed everywhere"
    if not s.relaxed:
        yield (
            *(("unroll", "relaxation_temperature"), "feed"),
            "it concerns relaxed feeding (soft, gumbel, ...); see also --sample-temperature",
        )
    if s.feed == "straight_through":
        yield ("relaxation_temperature",), "feed", "it has the gradient of the plain softmax"
    if s.target != "raml":
        yield ("raml_distance", "raml_temperature"), "target", "it concerns --target raml"
    if not rewarded:
        yield _OF_REWARDS, "cost", "nothing is emitted and rewarded; use --cost reward"
    if s.cost == "cross_entropy":
        yield ("cross_entropy_weight",), "cost", "the cost is the cross-entropy already"
        names = ("max_order", "smoothing", "sentence_end")
        yield names, "cost", "it is of BLEU; use expected_bleu or reward"
    elif s.cross_entropy_weight == 0 and s.label_smoothing > 0:
        yield ("label_smoothing",), "cross_entropy_weight", "there is nothing to smooth"
    if s.estimator != "candidate_set":
        names = ("candidate_loss", "candidate_sharpness", "candidate_reference")
        yield names, "estimator", "it concerns --estimator candidate_set"
    elif s.candidate_loss != "risk":
        yield ("candidate_sharpness",), "candidate_loss", "only the risk has a sharpness"
        if s.candidate_loss == "sequence_nll" and s.reward_normalization != "none":
            why = "the best candidate is the best after normalisation as well"
            yield ("reward_normalization",), "candidate_loss", why
    if s.emits_greedily:
        yield _OF_SAMPLES, "emit", "the most probable token is emitted, none is sampled"
    elif s.feed != "sample" and not rewarded:
        yield (*_OF_SAMPLES, "sample_dropout"), "feed", "no tokens are sampled"
    if s.sample_dropout != "both" and not s.scores_tokens:
        why = "no samples are scored; sampling has dropout with both"
        yield ("sample_dropout",), "estimator", why
    if s.baseline != "learned":
        yield ("baseline_state_dim",), "baseline", "only a learned baseline reads a state"
    layers_score = s.layer_estimator == "score_function"
    if not layers_score:
        yield ("layer_baseline",), "layer_estimator", "only score_function has a baseline"
    layers_average = layers_score and (
        s.layer_baseline == "moving_average"
        or (s.layer_baseline in ("leave_one_out", "greedy") and s.cross_entropy_weight > 0)
    )
    if s.baseline != "moving_average" and not layers_average:
        yield ("baseline_decay",), "baseline", "nothing is averaged"
    if s.credit == "reward_to_go":
        yield ("reward_clip",), "credit", "full returns are clipped, not their increments"
    if s.reward_level != "text":
        yield _OF_TEXT, "reward_level", "it concerns --reward-level text"
    if rewarded:
        unread = _OF_NGRAMS - flags_of(s.reward, s.reward_level)
        yield tuple(sorted(unread)), "reward", "this reward does not read it"
        if s.reward_level == "text":
            yield ("sentence_end",), "reward_level", "text has no </s>; use --reward-level tokens"
    if ":" in s.reward:
        yield ("reward_workers",), "reward", "your own function runs in the training process"
    if s.cost == "cross_entropy":
        yield _OF_LENGTHS, "cost", "there are as many steps as the reference has tokens"
    if s.cost == "expected_bleu" and s.feed not in ("greedy", "sample"):
        yield _OF_LENGTHS, "feed", "there are as many steps as the reference has tokens"
