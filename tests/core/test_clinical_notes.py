"""Radiology notes: sections, masks, and the reason for every note that is no pair of findings and impression."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from s2l_ray.core.clinical_notes import read_radiology_note
from s2l_ray.core.data.examples import RADIOLOGY_INSTRUCTION, read_row
from s2l_ray.core.data.turns import RejectedRow, prompt_text, response_text

NOTE = """
 [**2151-7-16**] 2:29 PM
 CHEST (PORTABLE AP)                                             Clip # [**Clip Number (Radiology) 70**]
 Reason: line placement
 ______________________________________________________________________________
 UNDERLYING MEDICAL CONDITION:
  61 year old man
 ______________________________________________________________________________
                                 FINAL REPORT
 INDICATION:  Line placement at 10:30.

 COMPARISON: [**2151-7-15**]

 FINDINGS:  The heart is enlarged, as noted by
 Dr. [**Last Name (STitle) 12**].  No pneumothorax: lungs are clear.

                                                             (Over)

 [**2151-7-16**] 2:29 PM
 CHEST (PORTABLE AP)                                             Clip # [**Clip Number (Radiology) 70**]
 Reason: line placement
 ______________________________________________________________________________
                                 FINAL REPORT
 (Cont)
 The tube is unchanged.

 IMPRESSION:
 1.  Stable cardiomegaly.
 2.  No pneumothorax.
"""
FINDINGS = "The heart is enlarged, as noted by Dr. ___. No pneumothorax: lungs are clear. The tube is unchanged."


def test_sections_masks_and_page_breaks() -> None:
    note = read_radiology_note(NOTE)
    assert note.findings == FINDINGS
    assert note.impression == "1. Stable cardiomegaly. 2. No pneumothorax."


def test_a_note_is_a_pair_in_the_template_of_alpaca() -> None:
    example = read_row({"CATEGORY": "Radiology", "ISERROR": "", "TEXT": NOTE}, "radiology", {}).example
    assert RADIOLOGY_INSTRUCTION in prompt_text(example) and FINDINGS in prompt_text(example)
    assert response_text(example).startswith("1. Stable") and "[**" not in prompt_text(example)


@pytest.mark.parametrize("text", ["FINDINGS: a [**b\nIMPRESSION: c [**d**]", "FINDINGS: a **]\nIMPRESSION: c"])
def test_a_mask_without_its_other_mark_hides_no_text(text: str) -> None:
    with pytest.raises(RejectedRow, match="unclosed_mask"):
        read_radiology_note(text)


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


def test_every_note_of_a_thousand_is_accounted_for() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.choice(["good", *DEFECTS], 1000, p=[0.45, *[0.05] * len(DEFECTS)])
    expected = Counter("example" if kind == "good" else DEFECTS[kind][0] for kind in kinds)
    found: Counter[str] = Counter()
    for number, kind in enumerate(kinds.tolist()):
        row = note_row(number) if kind == "good" else DEFECTS[kind][1](number)
        try:
            example = read_row(row, "radiology", {}).example
        except RejectedRow as error:
            found[error.reason] += 1
            continue
        found["example"] += 1
        assert f"Line {number}, ___ noted." in prompt_text(example) and response_text(example) == "Normal."
    assert found == expected and found.total() == 1000 and len(found) == 10
