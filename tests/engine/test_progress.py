"""Plain lines where the output is no terminal."""

from __future__ import annotations

import pytest

from scenewise.cli.output import bar, bar_to
from scenewise.engine import progress
from scenewise.engine.progress import Lines, Progress, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_a_line_every_half_minute_with_rate_and_time_left(clock):
    told: list[str] = []
    lines = Lines(told.append)
    for step in range(1, 121):
        clock(2.0)
        lines.at("step", step, 300)
    assert len(told) == 120 * 2 // 30
    assert told[0] == "step: 15 of 300, 2.0 s each, 10 min left"
    assert told[-1] == "step: 120 of 300, 2.0 s each, 6 min left"


def test_a_run_that_goes_on_has_its_own_rate(clock, capsys):
    shown = Progress(1000, quiet=False)
    shown.goes_on_from(900)
    clock(40)
    shown.step(910, 2, 3, {"loss": 0.5})
    assert capsys.readouterr().err == "epoch 3/3, step: 910 of 1000, 4.0 s each, 6 min left, loss 0.500\n"


def test_long_commands_say_how_far_they_are(clock, capsys):
    with bar("predict", 200) as advance:
        for _ in range(100):
            clock(0.5)
            advance(1)
    with bar_to("convert") as move:
        clock(31)
        move(62, 100)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "scenewise: predict: 60 of 200, 2.0 a second, 70 s left",
        "scenewise: convert: 62 of 100, 2.0 a second, 19 s left",
    ]


def test_quiet_is_quiet(clock, capsys):
    shown = Progress(10, quiet=True)
    clock(100)
    shown.step(1, 0, 1, {"loss": 1.0})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (75, "75 s"), (600, "10 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words
