from recipes.data.cleaning import Cleaner
from recipes.schema.recipe import Cleaning

TEXT = [
    ("Ein Satz .", "A sentence ."),
    ("", "empty"),
    ("  ", ""),
    ("gleich", "gleich"),
    ("eins zwei drei vier", "one"),
    ("lang " * 8, "long " * 8),
    ("Ein Satz .", "A sentence ."),
    ("Ein Satz .", "One sentence ."),
    ("eins zwei", "one two three four"),
]
PAIRS = [(source, [target]) for source, target in TEXT]


def kept(**settings):
    cleaner = Cleaner(Cleaning(**settings))
    found = [PAIRS.index(pair) for pair in cleaner(PAIRS)]
    return found, cleaner.counts()


def test_nothing_but_empty_lines_goes_by_default():
    found, counts = kept()
    assert found == [0, 3, 4, 5, 0, 7, 8]
    assert counts == {"read": 9, "empty": 2, "kept": 7}


def test_every_rule_takes_out_its_own_pairs_alone():
    assert 3 not in kept(identical=True)[0]
    assert kept(max_length=8)[1]["kept"] == 7
    assert kept(max_length=7)[1] == {"read": 9, "empty": 2, "max_length": 1, "kept": 6}
    # Four words to two is a ratio of 2, which is allowed.
    assert kept(max_length_ratio=2.0)[1] == {
        "read": 9,
        "empty": 2,
        "max_length_ratio": 1,
        "kept": 6,
    }
    assert kept(max_length_ratio=1.9)[1]["max_length_ratio"] == 2
    # The same source with another target is another pair.
    assert kept(duplicates=True)[1] == {"read": 9, "empty": 2, "duplicates": 1, "kept": 6}


def test_all_rules_count_a_pair_once_and_add_up():
    cleaner = Cleaner(Cleaning(5, 1.5, identical=True, duplicates=True))
    assert [source for source, _ in cleaner(PAIRS)] == ["Ein Satz .", "Ein Satz ."]
    counts = cleaner.counts()
    assert counts.pop("read") == sum(counts.values()) == len(PAIRS)
    assert cleaner.summary() == (
        "9 pairs, taken out: 2 with an empty side, 1 with equal sides, 1 longer than 5 words, "
        "2 with a length ratio above 1.5, 1 that occur again; 2 kept"
    )


def test_empty_sides_can_stay():
    found, counts = kept(empty=False, max_length_ratio=1.5, max_length=5)
    assert 1 in found
    assert "empty" not in counts
