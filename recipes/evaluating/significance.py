"""sacrebleu's bootstrap intervals, and its paired test against a baseline.

The test is approximate randomisation. The p-value of sacrebleu's paired bootstrap is no use: it
takes the absolute value of the differences before it subtracts their mean, so that outputs of equal
quality give about .43, and nothing gives more.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest

# Between equal outputs there is no difference to test; sacrebleu's formula would give its
# smallest p-value, 1 / (trials + 1).
_NO_DIFFERENCE = 1.0


@dataclass
class TestOutcome:
    """One system's outcome: ``p_value`` is None for the baseline.

    ``mean`` and ``interval`` are the bootstrap's, and None after approximate randomisation.
    """

    __test__ = False  # no test of pytest's

    score: float
    p_value: float | None
    mean: float | None
    interval: float | None


def paired_test(
    systems: Mapping[str, Sequence[str]],
    baseline: str,
    metric: Metric,
    test_type: str,
    trials: int,
    jobs: int = 0,
) -> tuple[dict[str, TestOutcome], str]:
    """Test each system against ``baseline``.

    Args:
        systems: hypotheses by system, ``baseline`` among them.
        metric: with its references read in.
        test_type: ``bs``, paired bootstrap resampling (Koehn 2004), or ``ar``, approximate
            randomisation (Riezler and Maxwell 2005).
        trials: resamples, or shuffles.
        jobs: processes; 0 lets sacrebleu choose. The figures do not depend on it.

    Returns:
        Outcomes by system, and the signature that names test, trials and seed.
    """
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)
    order = [baseline, *(name for name in systems if name != baseline)]
    test = PairedTest(
        [(system, systems[system]) for system in order],
        {"metric": metric},
        None,
        test_type=test_type,
        n_samples=trials,
        n_jobs=jobs if len(order) > 2 else 1,
    )
    signatures, columns = test()
    (column,) = (key for key in columns if key != "System")
    outcomes = {}
    for system, result in zip(order, columns[column], strict=True):
        # sacrebleu gives numpy's float32 for some of them.
        figures = (result.score, result.p_value, result.mean, result.ci)
        outcome = TestOutcome(*(None if figure is None else float(figure) for figure in figures))
        if system != baseline and list(systems[system]) == list(systems[baseline]):
            outcome.p_value = _NO_DIFFERENCE
        outcomes[system] = outcome
    return outcomes, str(signatures[column])
