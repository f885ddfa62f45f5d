"""Radiology notes: sections, masks, and the pair of findings and impression."""

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
