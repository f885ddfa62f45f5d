"""Rates, remaining times and shares of a pass and of a run, against hand-computed ones."""

import pytest

from s2l_ray.runtime.contracts import Progress
from s2l_ray.terminal.meter import PassMeter, RunMeter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_remaining_time_is_measured_from_the_first_completed_unit() -> None:
    """Ten seconds to load a model, then a unit every two seconds: 6 of 10 remaining units are 12 seconds."""
    clock = Clock()
    meter = PassMeter(clock)
    assert meter.update(Progress("trajectories", 0, 10))
    clock.now = 10
    assert not meter.update(Progress("trajectories", 1, 10))
    assert meter.seconds_left is None
    for done in (2, 3, 4):
        clock.now += 2
        meter.update(Progress("trajectories", done, 10))
    assert meter.seconds_left == pytest.approx(12)


def test_units_completed_before_do_not_change_the_rate() -> None:
    clock = Clock()
    meter = PassMeter(clock)
    meter.update(Progress("trajectories", 300, 400))
    for done in (301, 302):
        clock.now += 5
        meter.update(Progress("trajectories", done, 400))
    assert meter.seconds_left == pytest.approx(98 * 5)


def test_another_pass_has_a_rate_of_its_own() -> None:
    clock = Clock()
    meter = PassMeter(clock)
    for done in (0, 1, 2):
        meter.update(Progress("dataset", done, 4, unit="parse units"))
    assert meter.update(Progress("dataset", 1, 4, unit="cut units"))
    assert meter.seconds_left is None


def test_a_run_without_planned_times_counts_its_stages_alike() -> None:
    meter = RunMeter([("dataset", None), ("checkpoints", None), ("subset", 3.0), ("target", None)], clock=Clock())
    assert (meter.share, meter.seconds_left) == (0.0, None)
    meter.update(Progress("dataset", 1, 2, "parse units"))
    assert meter.share == 0.5 / 4
    meter.update(Progress("dataset", 1, 10, "encode units"))
    assert meter.share == 0.5 / 4, "a further pass does not set it back"
    meter.built("dataset")
    meter.update(Progress("checkpoints", 3, 4, "steps"))
    assert meter.share == 1.75 / 4
    assert "stage 2 of 4" in meter.text() and "left" not in meter.text()


def test_a_run_with_planned_times_has_a_remaining_time() -> None:
    """Planned are 10, 100 and 40 seconds. After 12 seconds the first stage is complete, and 30 of 150 s follow."""
    clock = Clock()
    meter = RunMeter([("dataset", 10.0), ("checkpoints", 100.0), ("subset", 40.0)], clock=clock)
    assert (meter.share, meter.seconds_left) == (0.0, 150.0)
    clock.now = 12
    assert meter.seconds_left == 140.0, "a stage that takes longer has no time left in the plan"
    meter.built("dataset")
    clock.now = 42
    assert meter.seconds_left == 70 + 40
    assert meter.share == pytest.approx(42 / (42 + 110))
    for done, now in ((0, 42), (1, 52), (2, 72)):
        clock.now = now
        meter.update(Progress("checkpoints", done, 12, "steps"))
    assert meter.seconds_left == 10 * 20 + 40, "20 seconds a unit exceed the plan"
    meter.built("checkpoints")
    meter.built("subset")
    assert (meter.share, meter.seconds_left) == (1.0, 0.0)


def test_an_experiment_counts_its_artifacts_over_all_runs() -> None:
    planned = [("checkpoints", 60.0), ("subset", 5.0), ("subset", 7.0), ("target", 50.0), ("target", 50.0)]
    clock = Clock()
    meter = RunMeter(planned, "artifact", clock)
    for kind in ("checkpoints", "subset", "target"):
        meter.update(Progress(kind, 1, 2))
        meter.built(kind)
    assert "artifact 4 of 5" in meter.text()
    meter.update(Progress("target", 0, 2))
    assert meter.seconds_left == 50 + 7, "the target of the second run is built, and its subset is left"
