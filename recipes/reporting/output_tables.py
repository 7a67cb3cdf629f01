"""Tables of what a BLEU score does not tell: what it is made of, repetition, length."""

from __future__ import annotations

from typing import Any

from recipes.reporting.tables import Column, Table, column_name, figures, label

REPEATS = "consecutive_repeats_per_100_tokens"


def statistics_table(results: dict[str, Any], column: Column) -> Table | None:
    """What BLEU is made of, repetition and probability; None in results of earlier versions."""
    systems = [s for s in results["systems"] if figures(results, s, column).get("precisions")]
    if not systems:
        return None
    rows = []
    for system in systems:
        found = figures(results, system, column)
        rows.append(
            [
                label(results, system),
                *(f"{value:.1f}" for value in found["precisions"]),
                _shown(found.get("brevity_penalty"), ".3f"),
                f"{found['length_ratio']:.3f}",
                *(
                    _shown(found.get("repeated_ngram_rate", {}).get(n), ".2%")
                    for n in ("1", "2", "4")
                ),
                _shown(found.get(REPEATS), ".2f"),
                _shown(found.get("average_probability"), ".3f"),
            ]
        )
    orders = range(1, len(figures(results, systems[0], column)["precisions"]) + 1)
    notes = []
    rates = results.get("reference_repeated_ngram_rate", {}).get(column[0])
    if rates:
        shown = ", ".join(f"{n}-grams {rate:.2%}" for n, rate in rates.items())
        repeats = results.get(f"reference_{REPEATS}", {}).get(column[0])
        if repeats is not None:
            shown += f"; {repeats:.2f} of 100 tokens right after the same token"
        notes.append(f"Repeated in the references: {shown}.")
    return Table(
        f"Output statistics: {column_name(results, column)}",
        [
            "arm",
            *(f"{n}-gram precision" for n in orders),
            "brevity penalty",
            "length ratio",
            *(f"repeated {n}-grams" for n in (1, 2, 4)),
            "repeats in a row / 100 tokens",
            "probability",
        ],
        rows,
        "Clipped n-gram precisions in percent; n-grams that repeat an earlier one of their "
        "sentence; tokens that are the same as the one right before; mean probability that the "
        "model gives the tokens of its output.",
        notes,
    )


def length_table(results: dict[str, Any], column: Column) -> Table | None:
    """BLEU by the length of the reference; None in results of earlier versions."""
    systems = [s for s in results["systems"] if figures(results, s, column).get("length_buckets")]
    if not systems:
        return None
    buckets = figures(results, systems[0], column)["length_buckets"]
    rows = []
    for system in systems:
        cells = []
        for bucket in figures(results, system, column)["length_buckets"]:
            text = f"{bucket['bleu']:.2f}"
            if bucket.get("control_bleu") is not None:
                text += f" ({bucket['bleu'] - bucket['control_bleu']:+.2f})"
            cells.append(text)
        rows.append([label(results, system), *cells])
    return Table(
        f"BLEU by length: {column_name(results, column)}",
        ["arm", *(f"{b['from']} to {b['to']} words ({b['sentences']})" for b in buckets)],
        rows,
        "By words of the reference, with the number of sentences; in brackets the difference to "
        "the control.",
    )


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
