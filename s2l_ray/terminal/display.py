"""The progress of a run on the terminal.

On a terminal: one bar for the active stage, and a permanent line for each completed one. Elsewhere: a line every few
seconds, and always the first and the last of each pass. Notes and warnings are permanent lines in both.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from s2l_ray.runtime.contracts import Progress
from s2l_ray.terminal import humanize

LINE_SECONDS = 5.0
KIND_WIDTH = 12


class Meter:
    """Position of a stage and its remaining time.

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
    def seconds_left(self) -> float | None:
        """Seconds to the end of this pass; None before the rate is known."""
        if self.now is None or self._start is None or self.now.done <= self._start[1]:
            return None
        seconds, done = self._clock() - self._start[0], self.now.done - self._start[1]
        return (self.now.total - self.now.done) * seconds / done

    def text(self) -> str:
        """The position as text: `312/400 units · 1 min 20 s left · 1.2k rows/s · loss 3.21`."""
        if self.now is None:
            return ""
        parts = [f"{humanize.count(self.now.done)}/{humanize.count(self.now.total)} {self.now.unit}"]
        left = self.seconds_left
        if left is not None and self.now.done < self.now.total:
            parts.append(f"{humanize.duration(left)} left")
        parts += [f"{humanize.short(rate)} {name}/s" for name, rate in self.now.rates.items()]
        parts += [f"{name} {value:.4g}" for name, value in self.now.values.items()]
        return " · ".join(parts)


class Display(ABC):
    """Shows the progress of a run that builds `kinds`, inside a `with` block."""

    def __init__(self, console: Console, kinds: Sequence[str]) -> None:
        self._console = console
        self._kinds = list(kinds)
        self._meter = Meter()

    def __enter__(self) -> Self:
        if self._kinds:
            self._begin("starting", "Ray")
        return self

    @abstractmethod
    def __exit__(self, *exception: object) -> None:
        """Leave the terminal as it was."""

    @abstractmethod
    def _begin(self, kind: str, text: str) -> None:
        """Show a stage without a position."""

    @abstractmethod
    def _advanced(self, progress: Progress, new: bool) -> None:
        """Show the position of a stage. new: it is a new stage, or a new pass of one."""

    def show(self, progress: Progress) -> None:
        if progress.built:
            self._built(progress)
            return
        if progress.warning:
            self._keep("!", progress.kind, progress.warning, "yellow")
        if progress.note:
            self._keep("·", progress.kind, progress.note, "dim")
        if progress.total > 0:
            self._advanced(progress, self._meter.update(progress))

    def position(self) -> str:
        """Position of the run, for messages."""
        now = self._meter.now
        if now is None or now.kind not in self._kinds:
            return f"before {self._kinds[0]}" if self._kinds else "at the end"
        return f"in {now.kind}, at {humanize.count(now.done)} of {humanize.count(now.total)} {now.unit}"

    def _built(self, progress: Progress) -> None:
        self._kinds = [kind for kind in self._kinds if kind != progress.kind]
        seconds = humanize.duration(progress.seconds)
        self._keep("✓", progress.kind, f"built in {seconds}", "green")

    def _keep(self, sign: str, kind: str, text: str, style: str) -> None:
        self._console.print(kept_line(sign, kind, text, style), soft_wrap=True)


class LineDisplay(Display):
    """For logs and pipes: lines with their time."""

    _shown_at = 0.0

    def __exit__(self, *exception: object) -> None:
        pass

    def _begin(self, kind: str, text: str) -> None:
        self._keep("·", kind, text, "dim")

    def _advanced(self, progress: Progress, new: bool) -> None:
        now = time.monotonic()
        if new or progress.done >= progress.total or now - self._shown_at >= LINE_SECONDS:
            self._shown_at = now
            self._keep("·", progress.kind, self._meter.text(), "")

    def _keep(self, sign: str, kind: str, text: str, style: str) -> None:
        line = Text(f"{time.strftime('%H:%M:%S')} ", "dim") + kept_line(sign, kind, text, style)
        self._console.print(line, soft_wrap=True)


class BarDisplay(Display):
    """For terminals: one bar, removed when its stage is complete."""

    def __init__(self, console: Console, kinds: Sequence[str]) -> None:
        super().__init__(console, kinds)
        kind = TextColumn(f"{{task.description:{KIND_WIDTH}}}", style="bold", table_column=Column(no_wrap=True))
        # takes the rest of the line; a longer text is clipped
        text = TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, ratio=1))
        bar = BarColumn(12 if console.width < 100 else 24)
        self._bars = Bars(
            SpinnerColumn(), kind, bar, TimeElapsedColumn(), text, console=console, transient=True, expand=True
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def _advanced(self, progress: Progress, new: bool) -> None:
        if self._task is None or self._bars.tasks[0].description != progress.kind:
            self._begin(progress.kind, "")
        assert self._task is not None
        # a pass of one unit has no position to show, only activity
        total = progress.total if progress.done or progress.total > 1 else None
        self._bars.update(self._task, total=total, completed=progress.done, text=self._meter.text())

    def _built(self, progress: Progress) -> None:
        super()._built(progress)
        self._begin(self._kinds[0] if self._kinds else "", "starting" if self._kinds else "")

    def _begin(self, kind: str, text: str) -> None:
        """Replace the bar with one of unknown length."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(kind, total=None, text=text)


def kept_line(sign: str, kind: str, text: str, style: str) -> Text:
    """A permanent line: a sign, the kind of artifact, the text."""
    return Text.assemble((f"{sign} ", style), (f"{kind:{KIND_WIDTH}} ", "bold"), (text, style if sign != "✓" else ""))


def make_display(console: Console, kinds: Sequence[str]) -> Display:
    """Bars on a terminal, lines elsewhere. kinds: to be built, in order."""
    bars = console.is_terminal and not console.is_dumb_terminal
    return BarDisplay(console, kinds) if bars else LineDisplay(console, kinds)
