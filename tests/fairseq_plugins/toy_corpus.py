"""A parallel corpus generated from a lexicon: small, regular, and not quite deterministic."""

import random
from pathlib import Path

SOURCE, TARGET = "de", "en"

# Words with several translations keep a trained model from being certain.
LEXICON = {
    "der": ["the"],
    "ein": ["a"],
    "hund": ["dog"],
    "katze": ["cat"],
    "haus": ["house", "home"],
    "bank": ["bench", "bank"],
    "schloss": ["castle", "lock"],
    "sieht": ["sees", "watches"],
    "kauft": ["buys"],
    "und": ["and"],
    "alt": ["old"],
    "klein": ["small", "little"],
}
UNSEEN = "zebra"
"""Stands in the test set only, on both sides; so it is ``<unk>``."""

SIZES = {"train": 60, "valid": 8, "test": 6, "even": 16, "uneven": 24}
"""Sentences per set; those of ``even`` and ``uneven`` fill batches of 8 on two workers, or fail to.
"""

LENGTHS = range(3, 10)


def sentence_pair(rng: random.Random, length: int) -> tuple[list[str], list[str]]:
    """Source and target tokens, word by word; now and then the last word is said twice."""
    source = [rng.choice(list(LEXICON)) for _ in range(length)]
    target = [rng.choice(LEXICON[word]) for word in source]
    if rng.random() < 0.3:
        target.append(target[-1])
    return source, target


def write_corpus(folder: Path, seed: int = 1) -> None:
    """Write ``{set}.de`` and ``{set}.en`` for all sets."""
    rng = random.Random(seed)
    for name, size in SIZES.items():
        pairs = [sentence_pair(rng, LENGTHS[index % len(LENGTHS)]) for index in range(size)]
        if name == "test":
            for source, target in pairs[::2]:
                source[1] = target[1] = UNSEEN
        for language, sentences in zip((SOURCE, TARGET), zip(*pairs, strict=True), strict=True):
            text = "".join(" ".join(sentence) + "\n" for sentence in sentences)
            (folder / f"{name}.{language}").write_text(text, encoding="utf-8")
