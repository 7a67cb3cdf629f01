import pytest

from criterions.stochastic_graph import Constant, Geometric, Linear, parse_schedule


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("0.5", Constant(0.5)),
        (0.5, Constant(0.5)),
        (1, Constant(1.0)),
        (" 2e-3 ", Constant(0.002)),
        ("constant:0.25", Constant(0.25)),
        ("linear:1:0:20000", Linear(1.0, 0.0, 20000)),
        ("linear:-1.5:2:1", Linear(-1.5, 2.0, 1)),
        ("geometric:1.0:0.1:50", Geometric(1.0, 0.1, 50)),
    ],
)
def test_forms(text: str | float, schedule):
    parsed = parse_schedule(text)
    assert parsed == schedule
    assert isinstance(parsed(0), float)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "could not convert"),
        ("fast", "could not convert"),
        ("cosine:1:0:5", "no schedule is called 'cosine'"),
        ("linear:1:0", "linear takes 3 values"),
        ("geometric:1:0.1:5:7", "geometric takes 3 values"),
        ("linear:1:x:5", "could not convert"),
        ("linear:1:0:2.5", "invalid literal for int"),
        ("linear:1:0:0", "updates must be at least 1"),
        ("geometric:1:0:5", "use a linear schedule to reach 0"),
        ("nan", "nan is not finite"),
        ("linear:inf:0:5", "inf is not finite"),
    ],
)
def test_an_error_tells_the_reason_and_the_forms(text: str, reason: str):
    with pytest.raises(ValueError, match="schedule") as error:
        parse_schedule(text)
    message = str(error.value)
    assert repr(text) in message
    assert reason in message
    assert "a number, linear:START:END:UPDATES or geometric:START:END:UPDATES" in message
