"""sacrebleu's bootstrap intervals, and its paired test against a baseline.

The test is approximate randomisation (Riezler and Maxwell 2005). The p-value of sacrebleu's paired
bootstrap is no use: it takes the absolute value of the differences before it subtracts their mean,
so that outputs of equal quality give about .43, and hardly anything gives more.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, Result


def paired_test(
    systems: Mapping[str, Sequence[str]],
    baseline: str,
    metric: Metric,
    test_type: str,
    trials: int,
) -> tuple[dict[str, Result], str]:
    """Test each system against ``baseline``.

    Args:
        systems: hypotheses by system, ``baseline`` among them.
        metric: with its references read in.
        test_type: ``bs``, bootstrap resampling, of which only the intervals are of use, or ``ar``,
            approximate randomisation.
        trials: resamples, or shuffles.

    Returns:
        sacrebleu's results by system, and the signature that names test, trials and seed.
    """
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)
    order = [baseline, *(name for name in systems if name != baseline)]
    test = PairedTest(
        [(system, systems[system]) for system in order],
        {"metric": metric},
        None,
        test_type=test_type,
        n_samples=trials,
        n_jobs=0 if len(order) > 2 else 1,  # 0 lets sacrebleu choose
    )
    signatures, columns = test()
    (column,) = (key for key in columns if key != "System")
    return dict(zip(order, columns[column], strict=True)), str(signatures[column])
