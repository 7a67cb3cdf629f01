import pytest

from criterions.stochastic_graph import SCHEDULES, Constant, Geometric, Linear

ALL = [Constant(0.7), Linear(1.0, 0.5, updates=10), Geometric(2.0, 0.5, updates=4)]


def test_values():
    assert [Constant(0.7)(n) for n in (0, 1, 1000)] == [0.7] * 3
    assert [Linear(1.0, 0.5, updates=10)(n) for n in (0, 4, 10, 99)] == [1, 0.8, 0.5, 0.5]
    assert [Linear(0.0, 1.0, updates=2)(n) for n in (0, 1, 2)] == [0, 0.5, 1]
    geometric = [Geometric(2.0, 0.125, updates=4)(n) for n in range(6)]
    assert geometric == pytest.approx([2, 1, 0.5, 0.25, 0.125, 0.125])


def test_the_end_is_reached_without_rounding():
    assert Geometric(0.3, 0.1, updates=7)(7) == 0.1
    assert Linear(0.3, 0.1, updates=7)(7) == 0.1


@pytest.mark.parametrize("schedule", ALL)
def test_resumed_training_sees_the_values_of_uninterrupted_training(schedule):
    whole = [schedule(n) for n in range(12)]
    fresh = type(schedule)(**vars(schedule))  # as built anew from the same flags
    assert [fresh(n) for n in range(6, 12)] == whole[6:]  # never asked for updates 0 to 5
    assert [schedule(n) for n in reversed(range(12))] == whole[::-1]  # the order is nothing to it


def test_by_name():
    assert SCHEDULES.names == ("constant", "geometric", "linear")
    assert SCHEDULES.create("linear", start=1.0, end=0.0, updates=5) == Linear(1.0, 0.0, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(1.0, 0.0, updates=0), "updates must be at least 1; got 0"),
        (lambda: Geometric(1.0, 0.0, updates=5), "use a linear schedule to reach 0"),
        (lambda: Geometric(-1.0, 1.0, updates=5), "must be above 0; got -1.0 and 1.0"),
        (lambda: Constant(1.0)(-1), "update must be at least 0; got -1"),
        (lambda: SCHEDULES.create("cosine"), "schedule must be one of constant, geometric, linear"),
    ],
)
def test_bad_input(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
