"""The progress of a run: remaining time, whole lines in a log, one bar on a terminal."""

import io
import itertools
import re

import pytest
from rich.console import Console

from s2l_ray.runtime.contracts import Progress
from s2l_ray.terminal import humanize
from s2l_ray.terminal.display import Display, LineDisplay, make_display
from s2l_ray.terminal.meter import RunMeter

KINDS = ("trajectories", "clusters")


def meter() -> RunMeter:
    return RunMeter([(kind, None) for kind in KINDS])


def lines(*records: Progress) -> list[str]:
    stream = io.StringIO()
    with LineDisplay(Console(file=stream, width=40), KINDS, meter()) as display:
        for record in records:
            display.show(record)
    return [line[9:] for line in stream.getvalue().splitlines()]


def test_a_log_has_the_first_and_the_last_position_of_a_stage_and_every_warning() -> None:
    positions = [Progress("trajectories", done, 50, counts={"rows": 1234}, seconds=1.0) for done in range(51)]
    shown = lines(*positions, Progress("trajectories", warning="the proxy did not learn: " + "x" * 60))
    assert [line.split()[2] for line in shown[1:-1]] == ["0/50", "50/50"]
    assert shown[-1] == "! trajectories the proxy did not learn: " + "x" * 60, "no line is wrapped"


def test_a_note_does_not_move_the_stage() -> None:
    shown = lines(Progress("clusters", 1, 2), Progress("clusters", note="K = 2 there"), Progress("clusters", 2, 2))
    assert ["1/2" in shown[1], "K = 2" in shown[2], "2/2" in shown[3]] == [True] * 3


@pytest.mark.parametrize("terminal", [True, False])
def test_the_position_of_a_run(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    display: Display = make_display(console, KINDS, meter())
    with display:
        assert "trajectories" in display.position()
        display.show(Progress("trajectories", 3, 4))
        assert position_in(display.position()) == ("trajectories", 3, 4)
        display.show(Progress("trajectories", seconds=3.0, built=True))
        assert "clusters" in display.position() and "trajectories" not in display.position()
        display.show(Progress("clusters", 1, 2))
        assert position_in(display.position()) == ("clusters", 1, 2)


def position_in(text: str) -> tuple[str, int, int]:
    """Kind, completed units and all units in the text of a position."""
    kind = next(kind for kind in KINDS if kind in text)
    done, total = map(int, re.findall(r"\d+", text))
    return kind, done, total


def test_a_bar_line_never_wraps() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, color_system=None)
    with make_display(console, ["trajectories"], meter()) as display:
        counts = {"rows": 123456, "tokens": 1234567, "examples": 99999}
        display.show(Progress("trajectories", 10000, 20000, counts=counts, seconds=1.0, values={"loss": 1.23456}))
        display.show(Progress("trajectories", 10001, 20000, counts=counts, seconds=1.0, values={"loss": 1.23456}))
    painted = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert max(map(len, re.split(r"[\r\n]", painted))) <= 60


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (252, "4 min 12 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert humanize.duration(seconds) == words


def test_sizes_and_rates_grow_in_steps() -> None:
    assert [humanize.size(10.0**n) for n in (0, 3, 6, 9, 12)] == ["1 byte", "1.0 kB", "1.0 MB", "1.0 GB", "1.0 TB"]
    assert [humanize.short(x) for x in (0.25, 3, 312, 4200, 310_000, 1.3e6)] == [
        "0.25",
        "3",
        "312",
        "4.2k",
        "310k",
        "1.3M",
    ]
    values = [humanize.short(x) for x in itertools.accumulate([1.0] * 5, lambda x, _: x * 7)]
    assert all(len(value) <= 5 for value in values)
