"""What ``make quick`` leaves out: tests that train, start processes, or take seconds each."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

SLOW = (
    "criterions/bleu/test_[bcg]*s.py",
    "criterions/bleu/test_counted_bleu.py",
    "criterions/manifolds/test_manifold_distributions.py",
    "criterions/stochastic_graph/test_against_pyro.py",
    "fairseq_plugins/expected_bleu/*.py",
    "fairseq_plugins/models/*.py",
    "fairseq_plugins/stochastic_graph/*.py",
    "fairseq_plugins/rewards/test_rewards_workers.py",
    "fairseq_plugins/test_[admrsw]*.py",
    "packaging/test_install.py",
    "test_benchmarks.py",
    "recipes/test_dry_run.py",
    "recipes/test_end_to_end.py",
    "recipes/test_evaluat*.py",
    "recipes/test_iterative_task.py",
    "recipes/test_killed.py",
    "recipes/test_loggers.py",
    "recipes/test_output_statistics.py",
    "recipes/test_own_checkpoint.py",
    "recipes/test_report*.py",
    "recipes/test_results.py",
    "recipes/test_seeds.py",
    "recipes/test_side_by_side.py",
    "recipes/test_stages.py",
)
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = str(item.path.relative_to(TESTS))
        if any(fnmatch(name, pattern) for pattern in SLOW):
            item.add_marker("slow")
    # The longest first, so that no worker waits for it at the end.
    items.sort(key=lambda item: item.path.name != "test_own_checkpoint.py")
