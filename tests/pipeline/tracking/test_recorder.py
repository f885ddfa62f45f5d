"""A recorded run: events as lines of JSON, the same points for every tracker, and no failure from a record."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from s2l_ray import storage
from s2l_ray.pipeline.tracking.curves import Point
from s2l_ray.pipeline.tracking.recorder import FLUSH_SECONDS, POSITION_SECONDS, Recorder
from s2l_ray.runtime.contracts import Progress, ignore_progress
from tests.support.tracked_training import put_training


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """A tracker that keeps its points, and fails after `most` calls."""

    def __init__(self, most: int = 1000) -> None:
        self.points: list[Point] = []
        self.succeeded: bool | None = None
        self._most = most

    def log(self, points: Sequence[Point]) -> None:
        self._most -= 1
        if self._most < 0:
            raise ConnectionError("the server is gone")
        self.points += points

    def flush(self) -> None: ...

    def finish(self, succeeded: bool) -> None:
        self.succeeded = succeeded


def events(folder: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in storage.read_bytes(f"{folder}/events.jsonl").decode().splitlines()]


@pytest.mark.parametrize("place", ["disk", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_events_have_a_time_a_position_and_rates(place: str) -> None:
    recorder = Recorder("run", place, {}, ignore_progress)
    recorder.report(Progress("trajectories", 3, 8, "units", {"rows": 60}, 2.0, {"loss": 1.5}))
    recorder.report(Progress("trajectories", warning="skipped é"))
    recorder.finish(None)
    position, warning, end = events(place)
    assert datetime.fromisoformat(str(position.pop("time"))).utcoffset() == timedelta(0)
    assert position == {
        **{"kind": "trajectories", "done": 3, "total": 8, "unit": "units", "counts": {"rows": 60}, "seconds": 2.0},
        **{"rates": {"rows": 30.0}, "values": {"loss": 1.5}},
    }
    assert (warning["kind"], warning["warning"], "done" in warning) == ("trajectories", "skipped é", False)
    assert (end["kind"], end["built"]) == ("run", True)


def test_positions_are_thinned_out_and_nothing_else_is(tmp_path: Path) -> None:
    clock, tracker = Clock(), Kept()
    recorder = Recorder("run", str(tmp_path), {"kept": tracker}, ignore_progress, clock)
    for done in range(101):
        clock.now = done * POSITION_SECONDS / 4
        recorder.report(Progress("trajectories", done, 100, counts={"rows": done}, seconds=1.0))
        if done in (7, 9):
            recorder.report(Progress("trajectories", note=f"note {done}"))
    recorder.finish(None)
    shown = events(str(tmp_path))
    assert [one["done"] for one in shown if "done" in one] == list(range(0, 101, 4))
    assert [one["note"] for one in shown if "note" in one] == ["note 7", "note 9"]
    assert [point.step for point in tracker.points] == list(range(0, 101, 4))


def test_events_are_written_during_a_run(tmp_path: Path) -> None:
    clock = Clock()
    recorder = Recorder("run", str(tmp_path), {}, ignore_progress, clock)
    recorder.report(Progress("dataset", note="first"))
    assert not (tmp_path / "events.jsonl").exists()
    clock.now = FLUSH_SECONDS
    recorder.report(Progress("dataset", note="second"))
    assert [one["note"] for one in events(str(tmp_path))] == ["first", "second"]


def test_a_tracker_that_fails_is_dropped_with_one_warning_and_the_others_get_every_point(tmp_path: Path) -> None:
    good, failing, shown = Kept(), Kept(most=1), list[Progress]()
    recorder = Recorder("run", str(tmp_path), {"good": good, "failing": failing}, shown.append)
    for done in range(3):
        recorder.report(Progress("trajectories", done, 2 + done, counts={"rows": done + 1}, seconds=1.0))
    recorder.complete(put_training(str(tmp_path / "root")), "")
    recorder.finish(None)
    (warning,) = [one.warning for one in shown if one.warning]
    assert "failing" in warning and "the server is gone" in warning
    assert len(failing.points) == 1 and failing.succeeded is None
    assert len(good.points) > 12 and good.succeeded


def test_an_event_file_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    shown: list[Progress] = []
    recorder = Recorder("run", str(tmp_path), {}, shown.append)
    recorder.report(Progress("dataset", note="first"))
    recorder.flush()
    recorder.report(Progress("dataset", note="second"))
    recorder.finish(None)
    assert [one.note for one in shown if one.note] == ["first", "second"]
    assert len([one for one in shown if "events.jsonl" in one.warning]) == 1


def test_what_the_display_raises_ends_the_run_and_is_recorded(tmp_path: Path) -> None:
    tracker = Kept()

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    recorder = Recorder("run", str(tmp_path), {"kept": tracker}, interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        recorder.report(Progress("dataset", 1, 2))
    recorder.finish(caught.value)
    (end,) = events(str(tmp_path))
    assert "KeyboardInterrupt" in str(end["warning"])
    assert tracker.succeeded is False
