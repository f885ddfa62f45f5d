"""The progress of a run on the terminal.

On a terminal: a bar for the active stage, one for the whole run, and a permanent line for each completed stage.
Elsewhere: a line every few seconds, and always the first and the last of each pass. Notes and warnings are permanent
lines in both.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from s2l_ray.runtime.contracts import Progress
from s2l_ray.terminal import humanize
from s2l_ray.terminal.meter import RunMeter

LINE_SECONDS = 5.0
KIND_WIDTH = 12


class Display(ABC):
    """Shows the progress of a run that builds `kinds`, inside a `with` block. meter: of the run or experiment."""

    def __init__(self, console: Console, kinds: Sequence[str], meter: RunMeter) -> None:
        self._console = console
        self._kinds = list(kinds)
        self._meter = meter

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
        now = self._meter.stage.now
        if now is None or now.kind not in self._kinds:
            return f"before {self._kinds[0]}" if self._kinds else "at the end"
        return f"in {now.kind}, at {humanize.count(now.done)} of {humanize.count(now.total)} {now.unit}"

    def _built(self, progress: Progress) -> None:
        self._kinds = [kind for kind in self._kinds if kind != progress.kind]
        self._meter.built(progress.kind)
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
            self._keep("·", progress.kind, f"{self._meter.stage.text()} · {self._meter.text()}", "")

    def _keep(self, sign: str, kind: str, text: str, style: str) -> None:
        line = Text(f"{time.strftime('%H:%M:%S')} ", "dim") + kept_line(sign, kind, text, style)
        self._console.print(line, soft_wrap=True)


class BarDisplay(Display):
    """For terminals: the bar of the run and below it that of the stage, removed at the end."""

    def __init__(self, console: Console, kinds: Sequence[str], meter: RunMeter) -> None:
        super().__init__(console, kinds, meter)
        kind = TextColumn(f"{{task.description:{KIND_WIDTH}}}", style="bold", table_column=Column(no_wrap=True))
        # takes the rest of the line; a longer text is clipped
        text = TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, ratio=1))
        bar = BarColumn(12 if console.width < 120 else 24)
        self._bars = Bars(
            SpinnerColumn(), kind, bar, TimeElapsedColumn(), text, console=console, transient=True, expand=True
        )
        self._run = self._bars.add_task("run", total=1.0, text="", visible=False)
        self._task: TaskID | None = None
        self._kind = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def _advanced(self, progress: Progress, new: bool) -> None:
        if self._task is None or self._kind != progress.kind:
            self._begin(progress.kind, "")
        assert self._task is not None
        # a pass of one unit has no position to show, only activity
        total = progress.total if progress.done or progress.total > 1 else None
        self._bars.update(self._task, total=total, completed=progress.done, text=self._meter.stage.text())
        self._bars.update(self._run, completed=self._meter.share, text=self._meter.text())

    def _built(self, progress: Progress) -> None:
        super()._built(progress)
        if self._kinds:
            self._begin(self._kinds[0], "starting")
        elif self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def _begin(self, kind: str, text: str) -> None:
        """Replace the bar of the stage with one of unknown length."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task, self._kind = self._bars.add_task(kind, total=None, text=text), kind
        self._bars.update(self._run, completed=self._meter.share, text=self._meter.text(), visible=True)


def kept_line(sign: str, kind: str, text: str, style: str) -> Text:
    """A permanent line: a sign, the kind of artifact, the text."""
    return Text.assemble((f"{sign} ", style), (f"{kind:{KIND_WIDTH}} ", "bold"), (text, style if sign != "✓" else ""))


def make_display(console: Console, kinds: Sequence[str], meter: RunMeter) -> Display:
    """Bars on a terminal, lines elsewhere. kinds: to be built, in order. meter: of the run or experiment."""
    bars = console.is_terminal and not console.is_dumb_terminal
    return BarDisplay(console, kinds, meter) if bars else LineDisplay(console, kinds, meter)
