"""Combinations of flags that would not do what they say are refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from fairseq_plugins.stochastic_graph.settings import Settings, flag

_ESTIMATOR_OF_RELAXED = {
    "soft": "pathwise",
    "gumbel": "pathwise",
    "gumbel_st": "straight_through",
    "straight_through": "straight_through",
}


def check_consistent(settings: Settings, given: Collection[str]) -> None:
    """Raise ``ValueError``, naming the flags at odds and why, for an inconsistent combination.

    Args:
        settings: the point, presets resolved.
        given: fields that the user set; only these can be without effect.
    """
    for first, second, why in _conflicts(settings, set(given)):
        one, other = (f"{flag(name)} {getattr(settings, name)}" for name in (first, second))
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
    elif s.emit == "greedy":
        yield (
            "emit",
            "cost",
            "the reward of the most probable tokens has no gradient; use --emit sample",
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
    if s.cost == "reward" and s.estimator not in ("score_function", "candidate_set"):
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
    if "candidate_sharpness" in given and s.candidate_loss != "risk":
        yield "candidate_sharpness", "candidate_loss", "only the risk has a sharpness"


def _sampling(s: Settings, given: set[str]) -> Iterator[tuple[str, str, str]]:
    if s.baseline != "none" and s.estimator != "score_function":
        yield "baseline", "estimator", "a baseline is subtracted in score_function only"
    if s.baseline == "leave_one_out" and s.samples < 2:
        yield "baseline", "samples", "the other samples are the baseline: at least 2"
    if s.baseline == "greedy" and s.cost != "reward":
        yield "baseline", "cost", "the greedy output's reward is the baseline: --cost reward"
    if s.reward_normalization == "group" and s.samples < 2:
        yield "reward_normalization", "samples", "a group has at least 2 samples"
    if s.samples > 1 and not (s.feed == "sample" or s.cost == "reward" or s.target == "raml"):
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
    if s.feed != "sample" and s.cost != "reward":
        for name in ("sample_temperature", "sample_topk", "sample_topp", "sample_dropout"):
            if name in given:
                yield (
                    name,
                    "feed",
                    "no tokens are sampled; see --relaxation-temperature for relaxed feeding",
                )
