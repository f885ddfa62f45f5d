"""The embedded data set with its ground truth.

`make_demo` writes `rows/` (ten sources of very unequal sizes in four file formats, with duplicates, wrong answers and
malformed rows at known rates) and `truth.jsonl` (one line per row). Equal seeds give the same bytes.
"""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray.demo.problems import FAMILIES, Problem

# The sources of each file and the number of their rows in 5000; each row names its source in the field `source`.
FILES = {
    "everyday.jsonl": {"change": 2400, "addition": 1200, "subtraction": 600},
    "rates.jsonl.gz": {"rates": 300},
    "shares.parquet": {"averages": 200, "percent": 120, "fractions": 80},
    "small.json": {"geometry": 50, "units": 30, "ages": 20},
}
RATES = {"exact_duplicate": 0.05, "near_duplicate": 0.05, "wrong_answer": 0.04, "malformed": 0.02}

# Kinds of malformed rows, and the reason for which each is rejected.
REASONS = {
    "broken_json": "undecodable",
    "invalid_utf8": "undecodable",
    "not_an_object": "not_an_object",
    "missing_field": "missing_field",
    "empty_response": "empty_response",
}

DAMAGES = {
    ".jsonl": tuple(REASONS),
    ".gz": tuple(REASONS),
    ".json": ("not_an_object", "missing_field", "empty_response"),
    ".parquet": ("missing_field", "empty_response"),
}
EDITS: tuple[Callable[[str], str], ...] = (
    lambda text: f"Please help: {text}",
    lambda text: f"{text} Show how.",
    lambda text: text[0].lower() + text[1:],
    lambda text: text.removesuffix("?") + " ?",
    lambda text: text.replace(". ", ".  ", 1) if ". " in text else f" {text}",
)


@dataclass(frozen=True)
class Entry:
    """A row before it is written to a file. `of` is the number of the entry that it repeats."""

    source: str
    kind: str
    question: str
    response: str
    answer: int
    difficulty: int
    of: int | None = None


@dataclass(frozen=True)
class TruthRow:
    """The ground truth of one row. kind: clean, exact_duplicate, near_duplicate, wrong_answer or malformed:<damage>.

    line: from 1; the row number if the file has no lines. answer: the correct one. of_file, of_line: the row that a
    duplicate repeats. reason: the reason for which the row must be rejected, or None.
    """

    file: str
    line: int
    source: str
    kind: str
    difficulty: int
    answer: int
    of_file: str | None
    of_line: int | None
    reason: str | None


@dataclass(frozen=True)
class DemoTruth:
    """The ground truth of every row, in order of `FILES`."""

    folder: Path
    rows: tuple[TruthRow, ...]

    def rejected(self) -> Counter[str]:
        """Number of rows to reject, by reason, if duplicates are dropped."""
        return Counter(row.reason for row in self.rows if row.reason)


def make_demo(folder: str | Path, seed: int = 0, rows: int = 5000) -> DemoTruth:
    """Write a data set of about `rows` rows into the folder and return its ground truth."""
    folder = Path(folder)
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    truth: list[TruthRow] = []
    for file, sources in FILES.items():
        damages = DAMAGES[Path(file).suffix]
        entries: list[Entry] = []
        for source, share in sources.items():
            count = max(5, round(rows * share / 5000))
            entries += _entries(source, count, damages, Random(f"{seed} {source}"), len(entries))
        order = _order(entries, Random(f"{seed} {file}"))
        _write(folder / "rows" / file, [entries[number] for number in order])
        truth += _truth(file, entries, order)
    made = DemoTruth(folder, tuple(truth))
    lines = (json.dumps(vars(row)) + "\n" for row in made.rows)
    (folder / "truth.jsonl").write_text("".join(lines), encoding="utf-8")
    return made


def _entries(source: str, count: int, damages: Sequence[str], rng: Random, first: int) -> list[Entry]:
    """The rows of one source. `first` is the number of its first entry in the file."""
    wanted = {kind: max(1, round(count * rate)) for kind, rate in RATES.items()}
    problems = _problems(source, count - wanted["exact_duplicate"] - wanted["near_duplicate"], rng)
    clean = len(problems) - wanted["wrong_answer"] - wanted["malformed"]
    entries = [Entry(source, "clean", one.question, one.solution(), one.answer, one.level) for one in problems[:clean]]
    repeated = rng.sample(range(clean), min(clean, wanted["exact_duplicate"] + wanted["near_duplicate"]))
    for position, number in enumerate(repeated):
        original = entries[number]
        again = replace(original, kind="exact_duplicate", of=first + number)
        if position >= wanted["exact_duplicate"]:
            again = replace(again, kind="near_duplicate", question=rng.choice(EDITS)(original.question))
        entries.append(again)
    for position, one in enumerate(problems[clean:]):
        if position < wanted["wrong_answer"]:
            kind, response = "wrong_answer", _wrong(one, rng).solution()
        else:
            kind, response = f"malformed:{damages[position % len(damages)]}", one.solution()
        entries.append(Entry(source, kind, one.question, response, one.answer, one.level))
    return entries


def _problems(source: str, count: int, rng: Random) -> list[Problem]:
    """Problems with pairwise different questions."""
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = FAMILIES[source](rng, rng.choice((1, 1, 2, 2, 2, 3)))
        found.setdefault(problem.question, problem)
    return list(found.values())


def _wrong(problem: Problem, rng: Random) -> Problem:
    """The same problem with an arithmetic error in its last step."""
    last = problem.steps[-1]
    slip = rng.choice([number for number in (-10, -3, -2, -1, 1, 2, 3, 10) if last.value + number >= 0])
    return replace(problem, steps=(*problem.steps[:-1], replace(last, value=last.value + slip)))


def _order(entries: Sequence[Entry], rng: Random) -> list[int]:
    """A random order in which every original precedes its duplicates."""
    order = list(range(len(entries)))
    rng.shuffle(order)
    position_of = {number: position for position, number in enumerate(order)}
    for number, entry in enumerate(entries):
        if entry.of is not None and position_of[entry.of] > position_of[number]:
            position_of[entry.of], position_of[number] = position_of[number], position_of[entry.of]
    return sorted(order, key=position_of.__getitem__)


def _truth(file: str, entries: Sequence[Entry], order: Sequence[int]) -> list[TruthRow]:
    line_of = {number: line for line, number in enumerate(order, start=1)}
    rows = []
    for number in order:
        entry = entries[number]
        reason = "duplicate" if entry.kind == "exact_duplicate" else REASONS.get(entry.kind.partition(":")[2])
        of_file, of_line = (None, None) if entry.of is None else (file, line_of[entry.of])
        known = (entry.source, entry.kind, entry.difficulty, entry.answer)
        rows.append(TruthRow(file, line_of[number], *known, of_file, of_line, reason))
    return rows


def _row(entry: Entry, number: int) -> Any:
    """The row as an object, with the damages that objects can have."""
    damage = entry.kind.partition(":")[2]
    if damage == "not_an_object":
        return entry.question
    row = {"id": number, "source": entry.source, "instruction": entry.question, "input": "", "output": entry.response}
    if damage == "missing_field":
        del row["output"]
    if damage == "empty_response":
        row["output"] = " "
    return row


def _line(entry: Entry, number: int) -> bytes:
    """The row as a line of JSON, with the damages that only bytes can have."""
    line = json.dumps(_row(entry, number)).encode()
    if entry.kind == "malformed:broken_json":
        line = line[: len(line) * 2 // 3]
    if entry.kind == "malformed:invalid_utf8":
        line = line.replace(b'"instruction": "', b'"instruction": "\xe9', 1)
    return line + b"\n"


def _write(path: Path, entries: Sequence[Entry]) -> None:
    """Write the entries in the format of the file extension. Parquet uses the field names question and answer."""
    if path.suffix in (".jsonl", ".gz"):
        data = b"".join(_line(entry, number) for number, entry in enumerate(entries))
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        return
    rows = [_row(entry, number) for number, entry in enumerate(entries)]
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        return
    names = {"id": "id", "source": "source", "question": "instruction", "answer": "output"}
    columns = {name: [row.get(field) for row in rows] for name, field in names.items()}
    pq.write_table(pa.table(columns), path, row_group_size=100)
