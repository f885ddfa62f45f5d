"""The command `report`, and the report that `run` writes."""

import dataclasses
from importlib.util import find_spec
from typing import TYPE_CHECKING

from s2l_ray.errors import ConfigError
from s2l_ray.terminal.console import print_message, print_result, stdout_console
from s2l_ray.terminal.failures import message_of
from s2l_ray.terminal.layout import facts, indented

if TYPE_CHECKING:
    from s2l_ray.pipeline.experiment import ExperimentPlan
    from s2l_ray.pipeline.plan import Plan

PAGE_LIBRARIES = ("plotly", "jinja2")
HOW_TO_INSTALL = "pip install 's2l_ray[report]'"


def report(
    target: str,
    to: str,
    explorer: str | None,
    overrides: list[str] | None,
    *,
    as_text: bool,
    as_json: bool,
    with_text: bool,
) -> None:
    """Write the page, or print the values."""
    from s2l_ray.reporting.report import report as make_report
    from s2l_ray.terminal.report_view import report_view

    writes_page = not (as_text or as_json)
    if writes_page and (missing := _missing_libraries()):
        raise ConfigError(
            f"the page needs {', '.join(missing)}; install with {HOW_TO_INSTALL}, or use --text or --json",
            page="docs/report.md",
        )
    page = to if writes_page else None
    made = make_report(target, page, explorer=explorer, overrides=overrides or (), text=with_text)
    if writes_page:
        print_message(f"wrote {to}{f' and {explorer}' if explorer else ''}")
    else:
        print_result(as_json, dataclasses.asdict(made), report_view(made))


def write_after_run(result: "Plan | ExperimentPlan", *, built: bool, with_text: bool) -> None:
    """Write the report of a run. A failure is reported and does not fail the run, whose artifacts are complete."""
    from s2l_ray.reporting.report import report_of_run

    if missing := _missing_libraries():
        print_message(f"no report: {', '.join(missing)} not installed; {HOW_TO_INSTALL}")
        return
    try:
        uri = report_of_run(result, built=built, text=with_text)
    except Exception as error:
        print_message(f"no report: {message_of(error, debug=False)}")
    else:
        stdout_console().print(indented(facts({"report": uri})))


def _missing_libraries() -> list[str]:
    return [name for name in PAGE_LIBRARIES if find_spec(name) is None]
