"""What worker processes of the tests measure; they import this file by its name."""

import os


def lengths(hypothesis: str, reference: str) -> list[float]:
    return [float(len(hypothesis)), float(len(reference))]


def fails_at_odd(hypothesis: str, reference: str) -> list[float]:
    if "odd" in hypothesis:
        raise KeyError("no entry")
    return lengths(hypothesis, reference)


def dies_at_fatal(hypothesis: str, reference: str) -> list[float]:
    if "fatal" in hypothesis:
        os._exit(3)
    return lengths(hypothesis, reference)


def process_id(hypothesis: str, reference: str) -> list[float]:
    return [float(os.getpid())]
