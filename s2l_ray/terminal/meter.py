"""Positions, rates and remaining times of a pass and of a run, computed from progress records."""

import time
from collections.abc import Callable, Sequence

from s2l_ray.runtime.contracts import Progress
from s2l_ray.terminal import humanize

# planned seconds of each artifact to build, with its kind, in order; None is not known
PlannedSeconds = Sequence[tuple[str, float | None]]


class PassMeter:
    """Position and remaining time of one pass of a stage.

    The rate is measured from the first completed unit on, because work before it, such as loading a model, is done
    once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pass: tuple[str, str, float] | None = None
        self._start: tuple[float, float] | None = None
        self._initial = 0.0
        self.now: Progress | None = None

    def update(self, progress: Progress) -> bool:
        """Take in a record and return whether it starts a new stage or a new pass of one."""
        current = (progress.kind, progress.unit, progress.total)
        new = current != self._pass
        if new:
            self._pass, self._start, self._initial = current, None, progress.done
        elif self._start is None and progress.done > self._initial:
            self._start = self._clock(), progress.done
        self.now = progress
        return new

    @property
    def rate(self) -> float | None:
        """Units per second; None before two units are complete."""
        if self.now is None or self._start is None or self.now.done <= self._start[1]:
            return None
        seconds = self._clock() - self._start[0]
        return (self.now.done - self._start[1]) / seconds if seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end of this pass; None before the rate is known."""
        return None if self.now is None or self.rate is None else (self.now.total - self.now.done) / self.rate

    def text(self) -> str:
        """The position as text: `312/400 units · 1 min 20 s left · 1.2k rows/s · loss 3.21`."""
        if self.now is None:
            return ""
        parts = [f"{humanize.count(self.now.done)}/{humanize.count(self.now.total)} {self.now.unit}"]
        left, rate = self.seconds_left, self.rate
        if left is not None and self.now.done < self.now.total:
            parts.append(f"{humanize.duration(left)} left")
        parts += [f"{humanize.short(rate)} {name}/s" for name, rate in self.now.rates.items()]
        if rate is not None and not self.now.rates:
            parts.append(f"{humanize.short(rate)}/s")
        parts += [f"{name} {value:.4g}" for name, value in self.now.values.items()]
        return " · ".join(parts)


class RunMeter:
    """Share and remaining time of a run of several stages, or of an experiment of several runs.

    planned: what it builds. noun: for one of these. Where the planned time of any is not known, all count alike in the
    share, and the run has no remaining time.
    """

    def __init__(
        self, planned: PlannedSeconds, noun: str = "stage", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._left, self._total, self._noun, self._clock = list(planned), len(planned), noun, clock
        self._started = self._stage_started = clock()
        self._fraction = 0.0
        self.stage = PassMeter(clock)

    def update(self, progress: Progress) -> bool:
        """Take in a position and return whether it starts a new pass."""
        self._fraction = max(self._fraction, progress.done / progress.total)  # of the pass that is furthest
        return self.stage.update(progress)

    def built(self, kind: str) -> None:
        """Take in the end of a stage."""
        if (at := self._position(kind)) is not None:
            del self._left[at]
        self._stage_started, self._fraction = self._clock(), 0.0
        self.stage = PassMeter(self._clock)

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end of the run; None while the time of any stage is not known."""
        if not self._left:
            return 0.0
        at = (self._position(self.stage.now.kind) if self.stage.now is not None else None) or 0
        planned, later = self._left[at][1], self._left[:at] + self._left[at + 1 :]
        seconds = [known for _, known in later if known is not None]
        own = self.stage.seconds_left
        if planned is not None:
            own = max(own or 0.0, planned - (self._clock() - self._stage_started))
        return own + sum(seconds) if own is not None and len(seconds) == len(later) else None

    @property
    def share(self) -> float:
        """Share of the run that is done, of its time where that is known, from 0 to 1."""
        left, elapsed = self.seconds_left, self._clock() - self._started
        if left is not None and elapsed + left > 0:
            return elapsed / (elapsed + left)
        return (self._total - len(self._left) + self._fraction) / self._total if self._total else 1.0

    def text(self) -> str:
        """The position of the run as text: `stage 3 of 5 · run 42 %, 12 min 05 s left`."""
        number, left = min(self._total, self._total - len(self._left) + 1), self.seconds_left
        percent = min(int(100 * self.share), 99) if self._left else 100
        remaining = f", {humanize.duration(left)} left" if left else ""
        return f"{self._noun} {number} of {self._total} · run {percent} %{remaining}"

    def _position(self, kind: str) -> int | None:
        """Index in what is left of the first artifact of a kind."""
        return next((at for at, (one, _) in enumerate(self._left) if one == kind), None)
