"""What the pages in docs/ say of the criterions, and where links lead."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields, replace

import pytest
from documents import (
    REPOSITORY,
    criterion_flags,
    criterion_parser,
    flag_rows,
    import_plugin,
    named_in,
    page,
    section,
)

import_plugin()

from fairseq_plugins.flags import as_flag  # noqa: E402
from fairseq_plugins.stochastic_graph.config import (  # noqa: E402
    StochasticGraphCriterionConfig,
    resolve,
)
from fairseq_plugins.stochastic_graph.costs import COSTS  # noqa: E402
from fairseq_plugins.stochastic_graph.presets import OBJECTIVES  # noqa: E402

CONFIG = StochasticGraphCriterionConfig
SET_BY_OBJECTIVE = [field.name for field in fields(CONFIG) if "unset" in field.metadata]
PAGES = sorted(
    str(path.relative_to(REPOSITORY))
    for folder in (".", "docs", "docs/results")
    for path in (REPOSITORY / folder).glob("*.md")
)
SECTION = section(page("docs/objectives.md"), "--criterion stochastic_graph")
FLAGS = {
    criterion: section(page("docs/flags.md"), f"--criterion {criterion}")
    for criterion in ("expected_bleu", "stochastic_graph")
}
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in SECTION.splitlines()
    if line.startswith("| `")
    and "`--objective`" not in line
    and len(cells := line.strip("| ").split(" | ")) == 5
}


def test_every_objective_has_a_row_and_every_row_an_objective() -> None:
    assert list(ROWS) == list(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_row_names_the_paper_and_exactly_the_flags(name: str) -> None:
    _, paper, flags, _ = ROWS[name]
    assert paper == OBJECTIVES[name].paper
    written = " ".join(f"{as_flag(key)} {value}" for key, value in OBJECTIVES[name].flags.items())
    assert flags == (f"`{written}`" if written else "none")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_cost_of_a_row_is_the_one_that_was_measured(name: str) -> None:
    measured = json.loads(page("docs/results/objectives.json"))["rows"][name]["timing"]["ratio"]
    assert ROWS[name][3] == f"{measured:.2f}"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_flags_of_a_row_give_the_objective_without_its_name(name: str) -> None:
    flags = ROWS[name][2].strip("`")
    words = [] if flags == "none" else shlex.split(flags)
    parsed = criterion_parser("stochastic_graph").parse_args(words)
    spelt, _ = resolve(CONFIG(**{field: getattr(parsed, field) for field in SET_BY_OBJECTIVE}))
    named, _ = resolve(CONFIG(objective=name))
    assert replace(spelt, objective=name) == named


@pytest.mark.parametrize("criterion", FLAGS)
def test_page_of_flags_has_every_flag_with_its_default(criterion: str) -> None:
    table = flag_rows(FLAGS[criterion])
    assert {name: default for name, (default, _) in table.items()} == {
        name: known.default for name, known in criterion_flags(criterion).items()
    }


def test_page_of_flags_sorts_them_by_who_sets_them() -> None:
    axes = flag_rows(FLAGS["stochastic_graph"].split("### What it does not set")[0])
    assert set(axes) == set(map(as_flag, SET_BY_OBJECTIVE))


@pytest.mark.parametrize("criterion", FLAGS)
def test_page_of_flags_names_the_choices(criterion: str) -> None:
    for name, (_, meaning) in flag_rows(FLAGS[criterion]).items():
        assert criterion_flags(criterion)[name].choices <= named_in(meaning), name


def test_tables_of_flags_stand_on_one_page() -> None:
    shown = {document for document in PAGES if len(flag_rows(page(document))) > 5}
    assert shown == {"docs/flags.md"}


@pytest.mark.parametrize("axis", ["feed", "cost", "estimator", "baseline"])
def test_axes_are_described_value_by_value(axis: str) -> None:
    start = SECTION.index(f"(`--{axis}`)")
    table = SECTION[start:].split("\n\n")[1]
    values = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    choices = (
        COSTS.names if axis == "cost" else criterion_flags("stochastic_graph")[f"--{axis}"].choices
    )
    assert sorted(values) == sorted(choices)


@pytest.mark.parametrize("document", PAGES)
def test_links_lead_somewhere(document: str) -> None:
    written = set(re.findall(r"--output (\S+)", page("Makefile")))
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page(document)):
        if "://" not in target:
            path = (REPOSITORY / document).parent / target
            by_benchmark = str(path.with_suffix("").resolve().relative_to(REPOSITORY)) in written
            assert path.exists() or by_benchmark, f"{document} links to {target}"


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_named_files_exist(document: str) -> None:
    named = re.findall(r"`((?:criterions|fairseq_plugins|recipes|tests)/[\w./-]*)`", page(document))
    assert named
    for path in named:
        assert (REPOSITORY / path.replace("NAME/criterion.py", "")).exists(), path
