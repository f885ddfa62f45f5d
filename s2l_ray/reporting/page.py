"""The HTML page of a report: one file with its style, data, figures and the plotting library."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from s2l_ray.reporting.figures import figures
from s2l_ray.reporting.records.report import Report
from s2l_ray.reporting.trajectories import ROWS_PER_BAND, SELECTED_POINTS

SECTIONS = {
    "experiment": "Arms",
    "summary": "Summary",
    "rows": "Rows",
    "sources": "Sources",
    "proxy": "Proxy",
    "clusters": "Clusters",
    "maps": "Maps",
    "suspicions": "Suspicious rows",
    "methods": "Other methods",
    "evaluation": "Evaluation",
    "costs": "Planned and actual",
    "provenance": "Provenance",
}


def page(report: Report) -> str:
    """The report as HTML. Everything that comes from data is escaped."""
    from plotly.offline import get_plotlyjs

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"count": count, "percent": percent, "duration": duration}
    environment.globals |= {
        "cell": _cell,
        "share_cell": _share_cell,
        "decimal_cell": _decimal_cell,
        "duration_cell": _duration_cell,
        "size_cell": _size_cell,
        "money_cell": _money_cell,
    }
    environment.globals |= {"band_rows": ROWS_PER_BAND, "selected_points": SELECTED_POINTS}
    drawn = {name: json.loads(figure.to_json()) for name, figure in figures(report).items()}
    present = [name for name in SECTIONS if getattr(report, name, True)]
    return environment.from_string(_resource("page.html.j2")).render(
        report=report,
        sections=[(name, SECTIONS[name]) for name in present],
        versions={name: version for stage in report.stages for name, version in stage.libraries.items()},
        figures=drawn,
        values=_embedded(report_values(report)),
        figure_values=_embedded(drawn),
        style=Markup(_resource("page.css")),
        script=Markup(_resource("page.js")),
        plotly=Markup(get_plotlyjs()),
    )


def report_values(report: Report) -> dict[str, object]:
    """The report as plain values."""
    return dataclasses.asdict(report)


def _resource(name: str) -> str:
    return files("s2l_ray.reporting").joinpath(name).read_text(encoding="utf-8")


def _embedded(values: Mapping[str, object]) -> Markup:
    """JSON inside a script element, which no text of the data can end."""
    return Markup(json.dumps(values, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


def count(number: float | None) -> str:
    """A whole number with thousands separators; a dash for None."""
    return "-" if number is None else f"{round(number):,}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def duration(seconds: float | None) -> str:
    """A duration with two components."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _cell(number: float | None) -> Markup:
    return _cell_of(number, count(number))


def _share_cell(part: float | None, whole: float) -> Markup:
    share = part / whole if whole and part is not None else None
    return _cell_of(share, percent(share))


def _duration_cell(seconds: float | None) -> Markup:
    return _cell_of(seconds, duration(seconds))


def _size_cell(size: float | None) -> Markup:
    return _cell_of(size, "-" if size is None else f"{size / 1e6:,.1f} MB")


def _money_cell(money: float | None) -> Markup:
    return _cell_of(money, "-" if money is None else f"{money:,.2f}")


def _decimal_cell(values: Sequence[float | None], position: int) -> Markup:
    """One of the values; a dash where there are none."""
    value = values[position] if values else None
    return _cell_of(value, "-" if value is None else f"{value:.3f}")


def _cell_of(value: float | None, shown: str) -> Markup:
    """A cell with its value for sorting; missing values sort as the smallest."""
    return Markup('<td class="n" data-value="{}">{}</td>').format("-Infinity" if value is None else value, shown)
