"""``--objective NAME``: published objectives, and the flags that they set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Objective:
    """A published objective: where it was published, and the flags that it sets."""

    paper: str
    flags: Mapping[str, Any] = field(default_factory=dict)


_SAMPLED_REWARD = {"feed": "sample", "emit": "sample", "cost": "reward"}
_CANDIDATES = {**_SAMPLED_REWARD, "estimator": "candidate_set", "samples": 5}

OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": Objective("maximum likelihood with teacher forcing"),
    "scheduled_sampling": Objective(
        "Bengio et al. 2015, arXiv 1506.03099",
        {"feed": "sample", "teacher_forcing": "linear:1:0.5:10000"},
    ),
    "raml": Objective("Norouzi et al. 2016, arXiv 1609.00150", {"target": "raml"}),
    "mixer": Objective(
        "Ranzato et al. 2016, arXiv 1511.06732",
        {
            **_SAMPLED_REWARD,
            "teacher_prefix": "linear:30:0:10000",
            "baseline": "learned",
            "cross_entropy_weight": 1.0,
        },
    ),
    "reinforce": Objective(
        "Williams 1992; Ranzato et al. 2016, arXiv 1511.06732",
        {**_SAMPLED_REWARD, "baseline": "moving_average"},
    ),
    "self_critical": Objective(
        "Rennie et al. 2017, arXiv 1612.00563", {**_SAMPLED_REWARD, "baseline": "greedy"}
    ),
    "leave_one_out": Objective(
        "Kool et al. 2019, 'Buy 4 REINFORCE samples, get a baseline for free!'",
        {**_SAMPLED_REWARD, "baseline": "leave_one_out", "samples": 5},
    ),
    "group_normalized": Objective(
        "Shao et al. 2024, arXiv 2402.03300 (advantage of group-relative policy optimisation)",
        {**_SAMPLED_REWARD, "reward_normalization": "group", "samples": 5},
    ),
    "minimum_risk": Objective("Shen et al. 2016, arXiv 1512.02433", _CANDIDATES),
    "sequence_nll": Objective(
        "Edunov et al. 2018, arXiv 1711.04956", {**_CANDIDATES, "candidate_loss": "sequence_nll"}
    ),
    "max_margin": Objective(
        "Edunov et al. 2018, arXiv 1711.04956", {**_CANDIDATES, "candidate_loss": "max_margin"}
    ),
    "multi_margin": Objective(
        "Edunov et al. 2018, arXiv 1711.04956", {**_CANDIDATES, "candidate_loss": "multi_margin"}
    ),
    "softmax_margin": Objective(
        "Edunov et al. 2018, arXiv 1711.04956",
        {**_CANDIDATES, "candidate_loss": "softmax_margin"},
    ),
    "trainable_greedy": Objective(
        "Gu, Cho, Li 2017, arXiv 1702.02429",
        {"feed": "greedy", "emit": "greedy", "cost": "reward"},
    ),
    "gumbel": Objective(
        "Jang et al. 2017, arXiv 1611.01144; as feeding: Golikov et al. 2017, arXiv 1711.07724",
        {"feed": "gumbel", "relaxation_temperature": "geometric:1:0.5:10000"},
    ),
    "straight_through_gumbel": Objective(
        "Jang et al. 2017, arXiv 1611.01144",
        {"feed": "gumbel_st", "relaxation_temperature": "geometric:1:0.5:10000"},
    ),
    "straight_through": Objective(
        "Bengio, Léonard, Courville 2013, arXiv 1308.3432", {"feed": "straight_through"}
    ),
    "soft_feeding": Objective("Golikov et al. 2017, arXiv 1711.07724", {"feed": "soft"}),
    "free_running": Objective("Golikov et al. 2017, arXiv 1711.07724", {"feed": "sample"}),
    "expected_bleu": Objective(
        "Zhukov et al. 2017, arXiv 1712.04708",
        {"cost": "expected_bleu", "cross_entropy_weight": 0.1},
    ),
}
