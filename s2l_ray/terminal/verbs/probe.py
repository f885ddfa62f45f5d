"""The command `s2l probe`: measure the stages of a job or an experiment over few rows."""

from rich.console import RenderableType
from rich.text import Text

from s2l_ray.config.experiment import is_experiment, load_experiment
from s2l_ray.pipeline.experiment import plan_experiment
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.probe.probe import Probe, probe_plans
from s2l_ray.runtime.contracts import Progress
from s2l_ray.terminal import humanize
from s2l_ray.terminal.commands import command_line
from s2l_ray.terminal.console import print_message, print_result, redirect_output_to_log
from s2l_ray.terminal.display import make_display
from s2l_ray.terminal.interrupts import Interrupts
from s2l_ray.terminal.layout import facts, indented, table
from s2l_ray.terminal.meter import RunMeter
from s2l_ray.terminal.verbs.targets import plan_job


def probe(job: str, overrides: list[str] | None, to: str, minutes: float, as_json: bool) -> None:
    """Measure what is missing, and print the measurements and the next command."""
    plans = _plans(job, overrides, to)
    kinds = list(dict.fromkeys(step.kind for one in plans for step in one.missing))
    if not kinds:
        print_message("nothing to measure: all artifacts are complete")
        return
    config = plans[0].config
    with redirect_output_to_log(config.root, f"{config.run}-probe") as log:
        display = make_display(log.console, kinds, RunMeter([(kind, None) for kind in kinds]))
        with Interrupts(log.console) as interrupts, display:

            def report(progress: Progress) -> None:
                interrupts.install()  # Ray replaces the handlers with its own
                display.show(progress)

            found = probe_plans(plans, report, 60 * minutes)
    print_result(as_json, {"record": found.record, "skipped": found.skipped}, probe_view(found))
    if not as_json:
        print_message(f"next: {command_line('plan', job, overrides, to)}")


def _plans(job: str, overrides: list[str] | None, to: str) -> list[Plan]:
    """The plan of a job, or those of the arms of an experiment with its first seed."""
    if not is_experiment(job):
        return [plan_job(job, overrides, to)]
    planned = plan_experiment(load_experiment(job, overrides or ()))
    first = planned.arms[0].job.seed
    return [arm.plan for arm in planned.arms if arm.job.seed == first]


def probe_view(found: Probe) -> RenderableType:
    """One line a stage: its start, its work, and its memory."""
    numbers = ("start", "work", "workers", "memory")
    shown = table("stage", *numbers, right=numbers)
    for one in found.record.measurements:
        work = humanize.duration(one.worker_seconds + one.alone_seconds)
        memory = humanize.size(one.peak_bytes)
        shown.add_row(one.kind, humanize.duration(one.fixed_seconds), work, str(one.workers), memory)
    pairs = {f"{kind}, not measured": reason for kind, reason in found.skipped.items()}
    head = Text(f"measured on {found.record.device}; Ray started in {humanize.duration(found.record.ray_seconds)}")
    return indented(head, shown, *([facts(pairs)] if pairs else []))
