"""The HTML page: one file, whose values are those of the report, in which texts of the data stay texts."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from s2l_ray.pipeline.estimates.actual import ActualStep
from s2l_ray.reporting.page import page, report_values
from s2l_ray.reporting.report import report
from tests.support.report_store import INJECTED, ReportStore


class Elements(HTMLParser):
    """The elements of a page, and the texts of its scripts of type application/json."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.json: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.links += [str(values[name]) for name in ("src", "href") if name in values]
        if values.get("type") == "application/json":
            self._open = str(values["id"])

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.json[self._open] = self.json.get(self._open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = None


@pytest.fixture(scope="module")
def text(store: ReportStore) -> str:
    return page(report(store.parts["subset"]))


@pytest.fixture(scope="module")
def elements(text: str) -> Elements:
    return Elements(text)


def test_the_page_holds_the_values_of_the_report(store: ReportStore, elements: Elements) -> None:
    expected = json.loads(json.dumps(report_values(report(store.parts["subset"]))))
    assert json.loads(elements.json["report"]) == expected


def test_the_page_needs_no_other_file(elements: Elements) -> None:
    assert [link for link in elements.links if not link.startswith("#")] == []


def test_texts_of_the_data_are_no_markup(text: str, elements: Elements) -> None:
    assert INJECTED not in text
    assert elements.tags.count("script") == 4
    assert "img" not in elements.tags
    labels = re.findall(r"<b>[^\"]*injected", elements.json["figures"])
    assert labels == []


def test_a_report_is_written_to_a_file(store: ReportStore, tmp_path: Path) -> None:
    made = report(store.parts["subset"].uri, str(tmp_path / "report.html"))
    assert page(made) == (tmp_path / "report.html").read_text(encoding="utf-8")


def test_planned_and_actual_costs_have_a_section(store: ReportStore) -> None:
    made = report(store.parts["subset"])
    step = ActualStep("dataset", 20.0, 25.0, 0.25, 0.5, 4e8, 5e8, None, 1_000_000, "probe")
    assert 'id="costs"' not in page(made)
    text = page(replace(made, costs=(step,)))
    section = text.partition('<section id="costs">')[2].partition("</section>")[0]
    assert re.findall(r'data-value="([^"]*)"', section) == [
        *("20.0", "25.0", "400000000.0", "500000000.0", "-Infinity", "1000000", "0.25", "0.5")
    ]
