"""The progress of a run on the terminal.

In: `Progress` records of the stages. Out: on a terminal one moving bar for the stage at work, and a kept line for
each that is finished; elsewhere a plain line every few seconds, the first and the last of each stage always. Notes
and warnings are kept lines in both.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from s2l_ray.runtime.contracts import Progress
from s2l_ray.terminal import humanize as figures

EVERY_SECONDS = 5.0
STANDS = "artefacts"
"""The unit of the record with which the pipeline says that an artefact stands."""
KIND_WIDTH = 12


class Meter:
    """Where a stage is, and how long it still takes at the pace of this run.

    The clock starts with the first unit that is done: what comes before, such as loading a model, is done once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: tuple[str, str, float] | None = None
        self._start: tuple[float, float] | None = None
        self._initial = 0.0
        self.now: Progress | None = None

    def read(self, progress: Progress) -> bool:
        """Take in a record; says whether a new stage, or a new pass of one, has begun with it."""
        phase = (progress.kind, progress.unit, progress.total)
        new = phase != self._phase
        if new:
            self._phase, self._start, self._initial = phase, None, progress.done
        elif self._start is None and progress.done > self._initial:
            self._start = self._clock(), progress.done
        self.now = progress
        return new

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end of this pass; None before there is a pace."""
        if self.now is None or self._start is None or self.now.done <= self._start[1]:
            return None
        seconds, done = self._clock() - self._start[0], self.now.done - self._start[1]
        return (self.now.total - self.now.done) * seconds / done

    def text(self) -> str:
        """The moment in words: `312/400 units · 1 min 20 s left · 1.2k rows/s · loss 3.21`."""
        if self.now is None:
            return ""
        parts = [f"{figures.count(self.now.done)}/{figures.count(self.now.total)} {self.now.unit}"]
        left = self.seconds_left
        if left is not None and self.now.done < self.now.total:
            parts.append(f"{figures.duration(left)} left")
        parts += [f"{figures.short(rate)} {name}/s" for name, rate in self.now.rates.items()]
        parts += [f"{name} {value:.4g}" for name, value in self.now.values.items()]
        return " · ".join(parts)


class Display(Protocol):
    """What shows the progress of a run, inside a `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, progress: Progress) -> None:
        """Take in one record."""

    def next_stage(self) -> None:
        """Say that the next stage begins."""

    def where(self) -> str:
        """How far the run got, in words."""


class _Base(ABC):
    def __init__(self, console: Console, kinds: Sequence[str]) -> None:
        self._console = console
        self._kinds = list(kinds)
        self._meter = Meter()

    def show(self, progress: Progress) -> None:
        if progress.unit == STANDS:
            self._finished(progress)
            return
        if progress.warning:
            self._keep("!", progress.kind, progress.warning, "yellow")
        if progress.note:
            self._keep("·", progress.kind, progress.note, "dim")
        if progress.total > 0:
            self._moved(progress, self._meter.read(progress))

    def next_stage(self) -> None:
        if self._kinds:
            self._keep("·", self._kinds[0], "starting", "dim")

    def where(self) -> str:
        now = self._meter.now
        if now is None or now.kind not in self._kinds:
            return f"before {self._kinds[0]} was begun" if self._kinds else "at the end"
        return f"in {now.kind}, at {figures.count(now.done)} of {figures.count(now.total)} {now.unit}"

    def _finished(self, progress: Progress) -> None:
        seconds = progress.values.get("seconds", 0.0)
        self._kinds = [kind for kind in self._kinds if kind != progress.kind]
        self._keep("✓", progress.kind, f"built in {figures.duration(seconds)}", "green")

    @abstractmethod
    def _moved(self, progress: Progress, new: bool) -> None:
        """Show how far a stage is, and whether a new one, or a new pass of one, has begun."""

    def _keep(self, sign: str, kind: str, text: str, style: str) -> None:
        self._console.print(kept_line(sign, kind, text, style), soft_wrap=True)


class LineDisplay(_Base):
    """For logs and pipes: whole lines, each with its time."""

    def __init__(self, console: Console, kinds: Sequence[str]) -> None:
        super().__init__(console, kinds)
        self._spoken = 0.0

    def __enter__(self) -> Self:
        if self._kinds:
            self._keep("·", "starting", "Ray", "dim")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def _moved(self, progress: Progress, new: bool) -> None:
        now = time.monotonic()
        if new or progress.done >= progress.total or now - self._spoken >= EVERY_SECONDS:
            self._spoken = now
            self._keep("·", progress.kind, self._meter.text(), "")

    def _keep(self, sign: str, kind: str, text: str, style: str) -> None:
        line = Text(f"{time.strftime('%H:%M:%S')} ", "dim") + kept_line(sign, kind, text, style)
        self._console.print(line, soft_wrap=True)


class BarDisplay(_Base):
    """For people at a terminal: one bar, which goes when its stage is finished."""

    def __init__(self, console: Console, kinds: Sequence[str]) -> None:
        super().__init__(console, kinds)
        self._bar_width = 12 if console.width < 100 else 24
        kind = TextColumn(f"{{task.description:{KIND_WIDTH}}}", style="bold", table_column=Column(no_wrap=True))
        text = TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True))
        columns = (SpinnerColumn(), kind, BarColumn(self._bar_width), TimeElapsedColumn(), text)
        self._bars = Bars(*columns, console=console, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        if self._kinds:
            self._begin("starting", "Ray")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def next_stage(self) -> None:
        self._begin(self._kinds[0] if self._kinds else "", "starting" if self._kinds else "")

    def _moved(self, progress: Progress, new: bool) -> None:
        if self._task is None or self._bars.tasks[0].description != progress.kind:
            self._begin(progress.kind, "")
        assert self._task is not None
        # a stage that has done nothing yet, such as a fit in one piece, shows that it lives and not how far it is
        total = progress.total if progress.done or progress.total > 1 else None
        self._bars.update(self._task, total=total, completed=progress.done, text=self._fitting(self._meter.text()))

    def _finished(self, progress: Progress) -> None:
        super()._finished(progress)
        self.next_stage()

    def _begin(self, kind: str, text: str) -> None:
        """A bar without an end, in place of the one before it."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(kind, total=None, text=text)

    def _fitting(self, text: str) -> str:
        """As much as the line has room for, beside the sign, the kind, the bar and the time."""
        room = max(10, self._console.width - self._bar_width - KIND_WIDTH - 14)
        return text if len(text) <= room else f"{text[: room - 1]}…"


def kept_line(sign: str, kind: str, text: str, style: str) -> Text:
    """A line of a run's log: a sign, what it is about, what is said."""
    return Text.assemble((f"{sign} ", style), (f"{kind:{KIND_WIDTH}} ", "bold"), (text, style if sign != "✓" else ""))


def make_display(console: Console, kinds: Sequence[str]) -> Display:
    """Bars on a terminal, lines elsewhere; `kinds` are those to be built, in order."""
    bars = console.is_terminal and not console.is_dumb_terminal
    return BarDisplay(console, kinds) if bars else LineDisplay(console, kinds)
