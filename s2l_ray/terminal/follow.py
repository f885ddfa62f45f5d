"""A run, followed on the terminal to its end.

In: the generator of a run's progress, the plan it began with. Out: the plan that was carried out and the kinds that
were built; or `Interrupted`, or the failure, with the place of the log as a note. When this returns or raises, the
generator is closed: locks are given back, and a Ray that was started here is shut down.
"""

import contextlib
import traceback
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.errors import ConfigError, DamagedError, LockedError
from s2l_ray.runtime.contracts import Progress
from s2l_ray.terminal.console import Log
from s2l_ray.terminal.display import STANDS, kept_line, make_display
from s2l_ray.terminal.failures import Interrupted
from s2l_ray.terminal.interrupts import Interrupts

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Plan, PlannedStep

EXPLAINED = (ConfigError, DamagedError, LockedError)
"""Failures to which a log has nothing to add."""


@dataclass(frozen=True)
class Building:
    """A run that is to be followed.

    steps: its progress. kinds: what it builds, in order. connection: to Ray, entered before the first step. go_on: the
    command that takes it up after an interruption.
    """

    steps: Generator[Progress, None, "Plan"]
    kinds: Sequence[str]
    connection: AbstractContextManager[object]
    go_on: str


def follow(run: Building, log: Log) -> tuple["Plan", set[str]]:
    """Show the progress of a run to its end."""
    built: set[str] = set()
    display, steps = make_display(log.console, run.kinds), run.steps
    try:
        with Interrupts(log.console) as interrupts, display, run.connection, contextlib.closing(steps):
            interrupts.install()  # ray.init has put handlers of its own there, one of them in C++
            display.next_stage()
            while True:
                progress = next(steps)
                interrupts.install()
                if progress.unit == STANDS:
                    built.add(progress.kind)
                display.show(progress)
    except StopIteration as end:
        return end.value, built
    except (KeyboardInterrupt, SystemExit):  # ray.init answers SIGTERM by SystemExit
        place = display.where()
        raise Interrupted(f"interrupted {place}; what is finished stays. Go on with:\n  {run.go_on}") from None
    except Exception as error:
        if not isinstance(error, EXPLAINED):
            _into_log(error, log.path)
        raise


def show_found(steps: Sequence["PlannedStep"], log: Log) -> None:
    """A line for each artefact that is there."""
    for step in steps:
        log.console.print(kept_line("✓", step.kind, f"found, {step.uri}", "green"), soft_wrap=True)


def found_and_missing(planned: "Plan", rebuild: str | None) -> tuple[list["PlannedStep"], list[str]]:
    """What a run finds and keeps, and the kinds that it builds."""
    stale: set[str | None] = {rebuild}
    for step in planned.steps:
        if step.state != "complete" or stale & step.inputs.keys():
            stale.add(step.kind)
    found = [step for step in planned.steps if step.kind not in stale]
    return found, [step.kind for step in planned.steps if step.kind in stale]


def _into_log(error: Exception, path: Path) -> None:
    with path.open("a", encoding="utf-8") as log:
        log.write("".join(traceback.format_exception(error)))
        log.write(getattr(error, "details", ""))
    error.add_note(f"log: {path}")
