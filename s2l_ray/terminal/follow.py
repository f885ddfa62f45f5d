"""A run with its progress on the terminal, and the log of a submitted job."""

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.errors import ConfigError, DamagedError, LockedError
from s2l_ray.runtime.contracts import Progress
from s2l_ray.terminal.console import Log
from s2l_ray.terminal.display import kept_line, make_display
from s2l_ray.terminal.failures import Interrupted
from s2l_ray.terminal.interrupts import Interrupts
from s2l_ray.terminal.meter import RunMeter

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.runtime.submit import Ending, Submitted

# failures that need no log
EXPLAINED = (ConfigError, DamagedError, LockedError)


def follow(planned: "Plan", log: Log, resume: str, meter: RunMeter) -> "Plan":
    """Carry out a plan, show its progress, and return the plan as it ended.

    resume: the command that continues after an interruption. meter: of the run, or of the experiment with this run.
    Raises `Interrupted` after Ctrl-C or SIGTERM; another failure carries the path of the log as a note.
    """
    from s2l_ray.pipeline.run import run_plan

    for step in planned.steps:
        if not step.to_build:
            log.console.print(kept_line("✓", step.kind, f"complete, {step.uri}", "green"), soft_wrap=True)
    display = make_display(log.console, [step.kind for step in planned.missing], meter)
    try:
        with Interrupts(log.console) as interrupts, display:

            def report(progress: Progress) -> None:
                interrupts.install()  # ray.init replaces the handlers with its own, one of them in C++
                display.show(progress)

            return run_plan(planned, report)
    except (KeyboardInterrupt, SystemExit):  # ray.init answers SIGTERM with SystemExit
        raise Interrupted(
            f"interrupted {display.position()}; completed units are kept. To resume:\n  {resume}"
        ) from None
    except Exception as error:
        if not isinstance(error, EXPLAINED):
            _write_to_log(error, log.path)
        raise


def _write_to_log(error: Exception, path: Path) -> None:
    with path.open("a", encoding="utf-8") as log:
        log.write("".join(traceback.format_exception(error)))
        log.write(getattr(error, "details", ""))
    error.add_note(f"log: {path}")


def follow_job(submitted: "Submitted", again: str, stop: str) -> "Ending":
    """Print the log of a job until it ends. again, stop: the commands that follow it once more, and that stop it.

    Raises `Interrupted` after Ctrl-C, which leaves the job running.
    """
    from s2l_ray.runtime.submit import follow

    try:
        return follow(submitted, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        raise Interrupted(
            f"{submitted.submission_id} continues on the cluster.\n{how_to_follow(again, stop)}"
        ) from None


def how_to_follow(again: str, stop: str) -> str:
    """The commands that follow and stop a running job."""
    return f"  follow it:  {again}\n  stop it:    {stop}"
