"""Tables of what a BLEU score does not tell: n-gram precisions, repetition, length."""

from __future__ import annotations

from typing import Any

from recipes.reporting.tables import Column, Table, arms_of, column_name, figures, label, mean_of

_REPEATS = "consecutive_repeats_per_100_tokens"
_ORDERS = ("1", "2", "4")


def statistics_table(results: dict[str, Any], column: Column) -> Table:
    """What BLEU is made of, and repetition."""

    def mean(arm: str, form: str, *keys: Any) -> str:
        def figure(found: Any) -> float:
            for key in keys:
                found = found[key]
            return found

        known = mean_of(results, arm, column, figure)
        return "" if known is None else f"{known.mean:{form}}"

    orders = range(len(figures(results, results["control"], column)["precisions"]))
    rows = [
        [
            label(results, arm),
            *(mean(arm, ".1f", "precisions", n) for n in orders),
            mean(arm, ".3f", "brevity_penalty"),
            *(mean(arm, ".2%", "repeated_ngram_rate", n) for n in _ORDERS),
            mean(arm, ".2f", _REPEATS),
        ]
        for arm in arms_of(results)
    ]
    rates = results["reference_repeated_ngram_rate"][column[0]].items()
    repeated = ", ".join(f"{n}-grams {rate:.2%}" for n, rate in rates)
    repeats = results[f"reference_{_REPEATS}"][column[0]]
    return Table(
        f"Output statistics: {column_name(results, column)}",
        [
            "arm",
            *(f"{n + 1}-gram precision" for n in orders),
            "brevity penalty",
            *(f"repeated {n}-grams" for n in _ORDERS),
            "repeats in a row / 100 tokens",
        ],
        rows,
        "Clipped n-gram precisions in percent; n-grams that repeat an earlier one of their "
        "sentence; tokens that are the same as the one right before them.",
        [
            f"Repeated in the references: {repeated}; {repeats:.2f} of 100 tokens right after the "
            "same token."
        ],
    )


def length_table(results: dict[str, Any], column: Column) -> Table:
    """BLEU by the length of the reference."""
    buckets = figures(results, results["control"], column)["length_buckets"]

    def cell(arm: str, number: int) -> str:
        def change(found: dict[str, Any]) -> float | None:
            bucket = found["length_buckets"][number]
            theirs = bucket.get("baseline_bleu")
            return None if theirs is None else bucket["bleu"] - theirs

        found = mean_of(results, arm, column, lambda f: f["length_buckets"][number]["bleu"])
        changed = mean_of(results, arm, column, change)
        text = "" if found is None else f"{found.mean:.2f}"
        return text if changed is None else f"{text} ({changed.mean:+.2f})"

    return Table(
        f"BLEU by length: {column_name(results, column)}",
        ["arm", *(f"{b['from']} to {b['to']} words ({b['sentences']})" for b in buckets)],
        [
            [label(results, arm), *(cell(arm, n) for n in range(len(buckets)))]
            for arm in arms_of(results)
        ],
        "By words of the reference, with the number of sentences; in brackets the difference to "
        "the baseline.",
    )
