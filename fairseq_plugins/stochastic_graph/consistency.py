"""Combinations of flags that would not do what they say are refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from fairseq_plugins.stochastic_graph.settings import Settings, flag

_ESTIMATOR_OF_RELAXED = {
    "soft": "pathwise",
    "gumbel": "pathwise",
    "gumbel_st": "straight_through",
    "straight_through": "straight_through",
}


def check_consistent(
    settings: Settings, given: Collection[str], options: Mapping[str, Any]
) -> None:
    """Raise ``ValueError``, naming the flags at odds and why, for an inconsistent combination.

    Args:
        settings: the point, presets resolved.
        given: names of the flags that the user set; only these can be without effect.
        options: values of the flags that no preset sets.
    """
    values = {**asdict(settings), **options}
    given = set(given)
    conflicts = [*_conflicts(settings, given), *_options(settings, given, options)]
    for first, second, why in conflicts:
        one, other = (f"{flag(name)} {values[name]}" for name in (first, second))
        raise ValueError(f"{one} does not go with {other}: {why}")


def _conflicts(s: Settings, given: set[str]) -> Iterator[tuple[str, str, str]]:
    yield from _feeding(s, given)
    yield from _costs(s, given)
    yield from _estimators(s, given)
    yield from _sampling(s, given)


def _feeding(s: Settings, given: set[str]) -> Iterator[tuple[str, str, str]]:
    if s.feed == "teacher":
        for name in ("teacher_forcing", "teacher_prefix"):
            if name in given:
                yield name, "feed", "the reference is fed everywhere; choose another --feed to mix"
    if not s.relaxed:
        for name in ("unroll", "relaxation_temperature"):
            if name in given:
                yield (
                    name,
                    "feed",
                    "it concerns relaxed feeding (soft, gumbel, gumbel_st, straight_through)"
                    + ("; see --sample-temperature" if name == "relaxation_temperature" else ""),
                )
    elif s.feed == "straight_through" and "relaxation_temperature" in given:
        yield (
            "relaxation_temperature",
            "feed",
            "its gradient is that of the probabilities as they are; use gumbel_st",
        )
    if s.target == "raml":
        if s.cost != "cross_entropy":
            yield "target", "cost", "edited references are targets of the cross-entropy"
        if s.feed != "teacher":
            yield "target", "feed", "edited references are fed as they are: use --feed teacher"
    else:
        for name in ("raml_distance", "raml_temperature"):
            if name in given:
                yield name, "target", "it edits references only with --target raml"


def _costs(s: Settings, given: set[str]) -> Iterator[tuple[str, str, str]]:
    if s.cost != "reward":
        for name in ("emit", "credit", "reward", "reward_level", "reward_normalization"):
            if name in given:
                yield name, "cost", "nothing is emitted and rewarded; use --cost reward"
    elif s.emit == "greedy" and s.feed not in ("greedy", "teacher"):
        yield "emit", "feed", "the most probable tokens are rewarded, so feed these: --feed greedy"
    elif s.emit == "sample" and s.feed == "greedy":
        yield (
            "emit",
            "feed",
            "the sampled tokens are rewarded, so feed these, or the reference: sample or teacher",
        )
    if s.cost == "cross_entropy" and "cross_entropy_weight" in given:
        yield "cross_entropy_weight", "cost", "the cost is the cross-entropy already"
    if s.label_smoothing > 0 and not s.needs_cross_entropy:
        yield (
            "label_smoothing",
            "cross_entropy_weight",
            "without cross-entropy there is nothing to smooth",
        )
    if s.credit == "reward_to_go":
        if s.reward_normalization != "none":
            yield (
                "credit",
                "reward_normalization",
                "whole rewards are normalised, not their increments",
            )
        if s.reward_level != "tokens":
            yield "credit", "reward_level", "prefixes are scored on tokens only"
        if s.estimator == "candidate_set":
            yield "credit", "estimator", "a candidate set compares whole outputs"


def _estimators(s: Settings, given: set[str]) -> Iterator[tuple[str, str, str]]:
    if s.relaxed and s.cost != "reward" and s.estimator != _ESTIMATOR_OF_RELAXED[s.feed]:
        yield (
            "estimator",
            "feed",
            f"the gradient flows through what is fed: use {_ESTIMATOR_OF_RELAXED[s.feed]}",
        )
    if not s.relaxed and s.estimator in ("pathwise", "straight_through"):
        yield "estimator", "feed", "tokens carry no gradient: use soft, gumbel, gumbel_st, ..."
    if s.emits_greedily:
        if s.estimator != "none":
            yield (
                "estimator",
                "emit",
                "the most probable tokens are no random choice, and the score terms are those of "
                "the model's layers: see --layer-estimator",
            )
    elif s.cost == "reward" and s.estimator not in ("score_function", "candidate_set"):
        yield (
            "estimator",
            "cost",
            "a reward of discrete outputs has a gradient only through their probabilities: use "
            "score_function or candidate_set",
        )
    if s.cost != "reward" and s.estimator == "score_function" and s.feed != "sample":
        yield "estimator", "feed", "nothing is sampled; use --feed sample"
    if s.estimator == "candidate_set":
        if s.cost != "reward":
            yield "estimator", "cost", "candidates are compared by their rewards: --cost reward"
        if s.feed != "sample":
            yield "estimator", "feed", "candidates are the model's own outputs: --feed sample"
        if s.samples < 2:
            yield "estimator", "samples", "a set of candidates needs at least 2"
        if s.teacher_prefix != "0" or s.teacher_forcing != "0":
            name = "teacher_prefix" if s.teacher_prefix != "0" else "teacher_forcing"
            yield "estimator", name, "candidates must be wholly the model's own"
    else:
        for name in ("candidate_loss", "candidate_sharpness", "candidate_reference"):
            if name in given:
                yield name, "estimator", "it concerns --estimator candidate_set"
    if s.estimator == "candidate_set" and s.candidate_loss != "risk":
        if "candidate_sharpness" in given:
            yield "candidate_sharpness", "candidate_loss", "only the risk has a sharpness"
        if s.candidate_loss == "sequence_nll" and s.reward_normalization != "none":
            yield (
                "reward_normalization",
                "candidate_loss",
                "it chooses the best candidate, which is the best after normalisation as well",
            )


def _sampling(s: Settings, given: set[str]) -> Iterator[tuple[str, str, str]]:
    if s.baseline != "none" and s.emits_greedily:
        yield "baseline", "emit", "the score terms are those of the layers: see --layer-baseline"
    elif s.baseline != "none" and s.estimator != "score_function":
        yield (
            "baseline",
            "estimator",
            "a baseline is subtracted in score_function only; with "
            f"--cost {s.cost} --feed {s.feed} the estimator is {s.estimator} unless it is given",
        )
    if s.baseline == "leave_one_out" and s.samples < 2:
        yield "baseline", "samples", "the other samples are the baseline: at least 2"
    if s.baseline == "greedy" and s.cost != "reward":
        yield "baseline", "cost", "the greedy output's reward is the baseline: --cost reward"
    if s.baseline == "greedy" and s.reward_normalization != "none":
        yield (
            "baseline",
            "reward_normalization",
            "a normalised reward does not compare with that of the greedy output",
        )
    if s.baseline == "learned" and s.relaxed:
        yield "baseline", "feed", "relaxed feeding keeps no states; use another baseline"
    if s.reward_normalization == "group" and s.samples < 2:
        yield "reward_normalization", "samples", "a group has at least 2 samples"
    # With the reference as the prefix the model's own layers may draw.
    drawn = s.feed in ("sample", "teacher") or s.cost == "reward" or s.target == "raml"
    if s.samples > 1 and not drawn:
        yield "samples", "feed", "nothing is sampled, or it is sampled once for each source"
    if s.samples > 1 and s.relaxed:
        yield "samples", "feed", "relaxed feeding has one sample a source"
    if s.estimator == "score_function":
        for name, off in (("sample_topk", 0), ("sample_topp", 1.0)):
            if getattr(s, name) != off:
                yield (
                    name,
                    "estimator",
                    "samples of a truncated law bias it; use candidate_set, or a temperature",
                )
    of_samples = ("sample_temperature", "sample_topk", "sample_topp")
    if s.emits_greedily:
        for name in of_samples:
            if name in given:
                yield name, "emit", "the most probable token is emitted, none is sampled"
    elif s.feed != "sample" and s.cost != "reward":
        for name in (*of_samples, "sample_dropout"):
            if name in given:
                yield (
                    name,
                    "feed",
                    "no tokens are sampled; see --relaxation-temperature for relaxed feeding",
                )
    scored = s.estimator in ("score_function", "candidate_set") or s.emits_greedily
    if "sample_dropout" in given and s.sample_dropout != "both" and not scored:
        yield (
            "sample_dropout",
            "estimator",
            "no samples are scored; the pass with gradient has dropout as always, and sampling has "
            "it with both",
        )


def _options(
    s: Settings, given: set[str], options: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Flags that no preset sets, where they would be without effect."""
    if "baseline_state_dim" in given and s.baseline != "learned":
        yield "baseline_state_dim", "baseline", "only a learned baseline reads a state"
    layers = options["layer_estimator"] == "score_function"
    if "layer_baseline" in given and not layers:
        yield "layer_baseline", "layer_estimator", "only score_function has a baseline"
    baseline = options["layer_baseline"] if layers else "none"
    if baseline == "greedy":
        if s.cost != "reward":
            yield (
                "layer_baseline",
                "cost",
                "the reward of the output without the layers' noise is the baseline: --cost reward",
            )
        if s.reward_normalization != "none":
            yield (
                "layer_baseline",
                "reward_normalization",
                "a normalised reward does not compare with that of the greedy output",
            )
    averaged = baseline == "moving_average" or (
        baseline in ("leave_one_out", "greedy") and s.cross_entropy_weight > 0
    )
    if "baseline_decay" in given and s.baseline != "moving_average" and not averaged:
        yield "baseline_decay", "baseline", "nothing is averaged"

    if "reward_clip" in given and s.credit == "reward_to_go":
        yield "reward_clip", "credit", "whole rewards are clipped, not their increments"
    of_text = (
        *("reward_workers", "reward_remove_bpe", "reward_detok", "reward_detok_args"),
        "reward_sacrebleu_tokenizer",
    )
    for name in ("reward_clip", *of_text):
        if name in given and s.cost != "reward":
            yield name, "cost", "nothing is rewarded; use --cost reward"
    for name in of_text:
        if name in given and s.reward_level != "text":
            yield name, "reward_level", "ids are compared as they are; use --reward-level text"
    # The constant takes what other rewards take, so that a control differs in --reward alone.
    of_ngrams = s.reward in ("sentence_bleu", "gleu", "constant")
    if "reward_sacrebleu_tokenizer" in given and not of_ngrams:
        yield "reward_sacrebleu_tokenizer", "reward", "only BLEU and GLEU are of sacrebleu's tokens"
    if "reward_workers" in given and ":" in s.reward:
        yield "reward_workers", "reward", "your own function is called in the training process"

    for name, used in (("max_order", of_ngrams), ("smoothing", of_ngrams and s.reward != "gleu")):
        if name in given and s.cost == "cross_entropy":
            yield name, "cost", "it is of BLEU; use --cost expected_bleu or reward"
        if name in given and s.cost == "reward" and not used:
            yield name, "reward", "this reward does not have it"
    for name in ("max_decode_ratio", "max_decode_length"):
        if name in given and s.cost == "cross_entropy":
            yield name, "cost", "there are as many steps as the reference has tokens"
        if name in given and s.cost == "expected_bleu" and s.feed not in ("greedy", "sample"):
            yield name, "feed", "there are as many steps as the reference has tokens"
