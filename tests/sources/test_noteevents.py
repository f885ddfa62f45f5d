"""NOTEEVENTS.csv.gz of MIMIC-III: every note is an example or is rejected with the reason."""

import csv
import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2l_ray.config.sections import Source
from s2l_ray.core.data.turns import RejectedRow
from s2l_ray.sources.ranges import RangeReader, list_ranges
from s2l_ray.sources.spec import SourceSpec
from s2l_ray.stages.prepare.parse import RowParser

COLUMNS = [
    "ROW_ID",
    "SUBJECT_ID",
    "HADM_ID",
    "CHARTDATE",
    "CHARTTIME",
    "STORETIME",
    "CATEGORY",
    "DESCRIPTION",
    "CGID",
    "ISERROR",
    "TEXT",
]
NOTES = 1000


def body(findings: str = "FINDINGS: Clear [**Hospital 1**] lungs.", impression: str = "IMPRESSION: Normal.") -> str:
    return f" FINAL REPORT\n HISTORY: Cough, since 10:30.\n {findings}\n\n {impression}\n"


def note_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {"ROW_ID": number, "SUBJECT_ID": 7, "CATEGORY": "Radiology", "DESCRIPTION": "CHEST, two views", "ISERROR": ""}
    return {**row, "TEXT": body(findings=f"FINDINGS: Line {number}, [**Name**] noted."), **changes}


DEFECTS: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "another category": ("not_radiology", lambda n: note_row(n, CATEGORY="Nursing/other")),
    "no category": ("not_radiology", lambda n: note_row(n, CATEGORY=None)),
    "marked as an error": ("marked_as_error", lambda n: note_row(n, ISERROR="1")),
    "no text": ("missing_field", lambda n: note_row(n, TEXT=None)),
    "no findings": ("no_findings", lambda n: note_row(n, TEXT=body(findings=""))),
    "headings in lower case": ("no_findings", lambda n: note_row(n, TEXT=body("Findings: clear.", "Impression: a."))),
    "no impression": ("no_impression", lambda n: note_row(n, TEXT=body(impression=""))),
    "two impressions": ("several_impressions", lambda n: note_row(n, TEXT=body() + " IMPRESSION: Again.\n")),
    "empty findings": ("empty_findings", lambda n: note_row(n, TEXT=body(findings="FINDINGS:\n"))),
    "empty impression": ("empty_impression", lambda n: note_row(n, TEXT=body(impression="IMPRESSION: \n"))),
    "open mask": ("unclosed_mask", lambda n: note_row(n, TEXT=body(impression="IMPRESSION: [**Name normal."))),
}


@pytest.fixture
def kinds(tmp_path: Path) -> list[str]:
    """The kind of each note of a file with all defects."""
    rng = np.random.default_rng(0)
    found: list[str] = rng.choice(["good", *DEFECTS], NOTES, p=[0.45, *[0.05] * len(DEFECTS)]).tolist()
    with gzip.open(tmp_path / "NOTEEVENTS.csv.gz", "wt", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, quoting=csv.QUOTE_MINIMAL)
        writer.writeheader()
        for number, kind in enumerate(found):
            writer.writerow(note_row(number) if kind == "good" else DEFECTS[kind][1](number))
    return found


def test_every_note_of_a_thousand_is_accounted_for(tmp_path: Path, kinds: list[str]) -> None:
    source = Source.model_validate({"path": "NOTEEVENTS.csv.gz", "format": "radiology"})
    (one,) = list_ranges([SourceSpec(path="NOTEEVENTS.csv.gz")], str(tmp_path))
    parser = RowParser(source, one, lambda example: pytest.fail("a note is no chat"), None)
    found: Counter[str] = Counter()
    for kind, raw in zip(kinds, RangeReader(one), strict=True):
        try:
            parsed = parser.parse(raw)
        except RejectedRow as error:
            found[error.reason] += 1
            assert DEFECTS[kind][0] == error.reason
            continue
        assert kind == "good" and parsed["example_id"]
        found["example"] += 1
    assert found == Counter("example" if kind == "good" else DEFECTS[kind][0] for kind in kinds)
    assert found.total() == NOTES and len(DEFECTS) >= 10
