"""Findings and impression of radiology notes in the format of MIMIC-III (NOTEEVENTS).

A section begins at an upper-case heading with a colon at the start of a line, such as `FINDINGS:`. Parts that were
removed for privacy (`[**...**]`) become `___`, as in MIMIC-CXR.
"""

import re
from dataclasses import dataclass

from s2l_ray.core.data.turns import RejectedRow

CATEGORY = "radiology"
MASK = "___"
_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z ,/&()'-]*):", re.MULTILINE)
_REMOVED = re.compile(r"\[\*\*(?:(?!\[\*\*).)*?\*\*\]", re.DOTALL)
# the header of the next page, between the end of one page and the continuation on another
_PAGE_BREAK = re.compile(r"\(Over\).*?\(Cont\)", re.DOTALL)
_RULE = re.compile(r"^[ \t]*_{5,}[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class RadiologyNote:
    """The findings of a note and the radiologist's impression of them, each on one line."""

    findings: str
    impression: str


def read_radiology_note(text: str) -> RadiologyNote:
    """The sections of a note. Raises `RejectedRow` unless it has findings and exactly one impression, none empty."""
    masked = _REMOVED.sub(MASK, _RULE.sub("", _PAGE_BREAK.sub("", text)))
    if "[**" in masked or "**]" in masked:
        raise RejectedRow("unclosed_mask", "the marks [** and **] do not match")
    found = _sections(masked)
    findings, impressions = found.get("FINDINGS", []), found.get("IMPRESSION", [])
    if not findings:
        raise RejectedRow("no_findings", f"the headings are {', '.join(found) or 'missing'}")
    if len(impressions) != 1:
        reason = "several_impressions" if impressions else "no_impression"
        raise RejectedRow(reason, f"the headings are {', '.join(found)}")
    note = RadiologyNote(" ".join(part for part in findings if part), impressions[0])
    for name, value in (("findings", note.findings), ("impression", note.impression)):
        if not value:
            raise RejectedRow(f"empty_{name}", f"nothing follows the heading {name.upper()}")
    return note


def _sections(text: str) -> dict[str, list[str]]:
    """The texts below each heading, with single spaces."""
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    found: dict[str, list[str]] = {}
    for heading, end in zip(headings, ends, strict=True):
        found.setdefault(heading[1].strip(), []).append(" ".join(text[heading.end() : end].split()))
    return found
