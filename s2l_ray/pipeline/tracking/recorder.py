"""The recorder of a run: passes every progress record on to the display, the events, the trackers and Ray's metrics.

A record of a run never ends it: an event file or tracker that fails is dropped with a warning. What stops the run, such
as Ctrl-C, is raised by the display alone.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.runs import EVENTS
from s2l_ray.config.sections import Config
from s2l_ray.pipeline.tracking.curves import Point, artifact_points, progress_points
from s2l_ray.pipeline.tracking.events import EventLog
from s2l_ray.pipeline.tracking.trackers import Tracker, start_trackers
from s2l_ray.runtime.contracts import Progress, Report

if TYPE_CHECKING:
    from s2l_ray.runtime.metrics import RunMetrics

# the kind in records of the run as a whole
RUN = "run"
# between two recorded positions of a pass
POSITION_SECONDS = 10.0
# between two writes of whole files: a minute or, in a long run, this share of its time; a day has 400 writes
FLUSH_SECONDS, FLUSH_SHARE = 60.0, 0.01


class Recorder:
    """Records one run in its folder and in `trackers`, by name; `show` receives every record first."""

    def __init__(
        self,
        run: str,
        folder: str,
        trackers: Mapping[str, Tracker],
        show: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._show, self._clock = run, show, clock
        self._events = EventLog(storage.join(folder, EVENTS))
        self._trackers = dict(trackers)
        self._dropped: set[str] = set()
        self._pass: tuple[str, str, float] | None = None
        self._started = self._flushed = self._position_at = clock()

    @cached_property
    def _metrics(self) -> "RunMetrics":
        from s2l_ray.runtime.metrics import RunMetrics

        return RunMetrics(self._run)

    def report(self, progress: Progress) -> None:
        """Take in a progress record of a stage."""
        self._show(progress)
        self._try("metrics", self._count, progress)
        if self._is_news(progress):
            self._try(EVENTS, self._events.add, progress)
            self._log(progress_points(progress))
        since = self._clock() - self._flushed
        if since >= max(FLUSH_SECONDS, FLUSH_SHARE * (self._clock() - self._started)):
            self.flush()

    def complete(self, artifact: Artifact, accelerator: str) -> None:
        """Record the curve and the results of an artifact that the run has built."""
        self._try("curves", self._log_artifact, artifact, accelerator)
        self.flush()

    def note(self, text: str) -> None:
        """Record an event of the run as a whole, which is not displayed."""
        self._try(EVENTS, self._events.add, Progress(RUN, note=text))

    def flush(self) -> None:
        """Write what was recorded."""
        self._flushed = self._clock()
        self._try(EVENTS, self._events.flush)
        for name, tracker in self._trackers.items():
            self._try(name, tracker.flush)

    def finish(self, error: BaseException | None) -> None:
        """Record the end of the run, with its error."""
        seconds = round(self._clock() - self._started, 3)
        failure = "" if error is None else f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")
        end = Progress(RUN, seconds=seconds, warning=failure, built=error is None)
        self._try(EVENTS, self._events.add, end)
        self._try(EVENTS, self._events.flush)
        for name, tracker in self._trackers.items():
            self._try(name, tracker.finish, error is None)

    def _is_news(self, progress: Progress) -> bool:
        """Whether a record is worth an event: no position within `POSITION_SECONDS` of another of its pass."""
        if progress.note or progress.warning or progress.failures or progress.built:
            return True
        now, current = self._clock(), (progress.kind, progress.unit, progress.total)
        due = now - self._position_at >= POSITION_SECONDS or progress.done >= progress.total
        if not progress.total or not (due or current != self._pass):
            return False
        self._pass, self._position_at = current, now
        return True

    def _log(self, points: Sequence[Point]) -> None:
        for name, tracker in self._trackers.items():
            if points:
                self._try(name, tracker.log, points)

    def _log_artifact(self, artifact: Artifact, accelerator: str) -> None:
        self._log(artifact_points(artifact, accelerator))

    def _count(self, progress: Progress) -> None:
        self._metrics.record(progress)

    def _try(self, name: str, action: Callable[..., None], *arguments: object) -> None:
        """Call an action; one that fails is the last under its name."""
        if name in self._dropped:
            return
        try:
            action(*arguments)
        except Exception as error:
            self._dropped.add(name)
            self._show(Progress(RUN, warning=f"{name} is not recorded any more: {type(error).__name__}: {error}"))


@contextmanager
def recording(config: Config, folder: str, kinds: Collection[str], show: Report) -> Iterator[Recorder]:
    """The recorder of a run that builds `kinds`, started before anything is computed and finished after the block.

    Raises `ConfigError` for a tracker that cannot be started.
    """
    trackers = start_trackers(config, folder, kinds, lambda text: show(Progress(RUN, note=text)))
    recorder = Recorder(config.run, folder, trackers, show)
    recorder.note(f"building {', '.join(kinds)}")
    recorder.flush()
    try:
        yield recorder
    except BaseException as error:
        recorder.finish(error)
        raise
    recorder.finish(None)
