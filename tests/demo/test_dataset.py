"""The ground truth of the demo, compared with its files and with answers that are computed again."""

import gzip
import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from s2l_ray.core.data.examples import FORMATS
from s2l_ray.core.data.turns import RejectedRow, example_id
from s2l_ray.demo.dataset import FILES, DemoTruth, make_demo
from s2l_ray.sources.ranges import RangeReader, list_ranges
from s2l_ray.sources.rows import RawRow
from s2l_ray.sources.spec import SourceSpec

STEP = re.compile(r"([\d +*/-]+) = (\d+)\.")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoTruth:
    return make_demo(tmp_path_factory.mktemp("demo"))


def plain_rows(path: Path) -> list[Any]:
    """Rows of a file as objects, None for a line that is not JSON."""
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        return [{"instruction": row["question"], "output": row["answer"], "source": row["source"]} for row in rows]
    if path.suffix == ".json":
        return json.loads(path.read_text())
    data = path.read_bytes()
    return [loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()]


def loads(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


@pytest.fixture(scope="module")
def rows(demo: DemoTruth) -> dict[tuple[str, int], Any]:
    return {
        (file, line): row for file in FILES for line, row in enumerate(plain_rows(demo.folder / "rows" / file), start=1)
    }


def test_sizes_of_the_sources(demo: DemoTruth) -> None:
    sizes = Counter(row.source for row in demo.rows)
    assert len(sizes) == 10
    assert max(sizes.values()) >= 100 * min(sizes.values())
    assert 4500 <= len(demo.rows) <= 5500


def test_every_row_has_its_ground_truth(demo: DemoTruth, rows: dict[tuple[str, int], Any]) -> None:
    assert [(row.file, row.line) for row in demo.rows] == list(rows)
    for truth in demo.rows:
        row = rows[truth.file, truth.line]
        if isinstance(row, dict):
            assert row["source"] == truth.source
    lines = (demo.folder / "truth.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [vars(row) for row in demo.rows]


def test_only_answers_of_kind_wrong_answer_are_wrong(demo: DemoTruth, rows: dict[tuple[str, int], Any]) -> None:
    for truth in demo.rows:
        if truth.kind.startswith("malformed"):
            continue
        response = rows[truth.file, truth.line]["output"]
        steps = STEP.findall(response)
        assert 1 <= len(steps) <= 4, response
        wrong = [step for step in steps if evaluate(step[0]) != int(step[1])]
        stated = int(response.rsplit(" ", 1)[1].rstrip("."))
        assert stated == int(steps[-1][1])
        if truth.kind == "wrong_answer":
            assert wrong == [steps[-1]]
            assert stated != truth.answer == evaluate(steps[-1][0])
        else:
            assert not wrong
            assert stated == truth.answer


def evaluate(expression: str) -> Fraction:
    """Value of an arithmetic expression, computed with exact fractions."""
    exact = re.sub(r"\d+", lambda number: f"Fraction({number[0]})", expression)
    value = eval(exact, {"Fraction": Fraction})
    assert isinstance(value, Fraction)
    return value


def test_numbers_of_the_first_step_are_in_the_question(demo: DemoTruth, rows: dict[tuple[str, int], Any]) -> None:
    for truth in demo.rows:
        if truth.kind == "clean":
            row = rows[truth.file, truth.line]
            asked = set(re.findall(r"\d+", row["instruction"])) | {"100", "60", "7"}
            first = STEP.findall(row["output"])[0][0]
            assert set(re.findall(r"\d+", first)) <= asked | {str(len(re.findall(r"\d+", first)))}, row


def test_duplicates_repeat_an_earlier_clean_row(demo: DemoTruth, rows: dict[tuple[str, int], Any]) -> None:
    truths = {(row.file, row.line): row for row in demo.rows}
    texts: dict[str, tuple[str, int]] = {}
    for truth in demo.rows:
        if truth.kind.startswith("malformed"):
            continue
        row = rows[truth.file, truth.line]
        name = example_id(FORMATS["alpaca"](row, {}))
        place = (truth.of_file or "", truth.of_line or 0)
        if truth.kind == "exact_duplicate":
            assert texts[name] == place
            continue
        assert name not in texts
        texts[name] = (truth.file, truth.line)
        if truth.kind == "near_duplicate":
            original = rows[place]
            assert truths[place].kind == "clean"
            assert place < (truth.file, truth.line)
            assert row["output"] == original["output"]
            assert words(original["instruction"]) <= words(row["instruction"])
            assert row["instruction"] != original["instruction"]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_readers_reject_the_rows_that_the_ground_truth_names(demo: DemoTruth) -> None:
    seen: set[str] = set()
    found: dict[tuple[str, int], str | None] = {}
    for file in FILES:
        for source_range in list_ranges([SourceSpec(file)], str(demo.folder / "rows")):
            for raw in RangeReader(source_range):
                line = raw.line + (source_range.start if source_range.kind == "parquet" else 0)
                found[file, line] = reason(raw, seen)
    assert found == {(row.file, row.line): row.reason for row in demo.rows}
    assert Counter(found.values()) == {**demo.rejected(), None: sum(row.reason is None for row in demo.rows)}


def reason(raw: RawRow, seen: set[str]) -> str | None:
    if raw.row is None:
        return raw.reason
    fields = {"instruction": "question", "response": "answer"} if "question" in raw.row else {}
    try:
        name = example_id(FORMATS["alpaca"](raw.row, fields))
    except RejectedRow as error:
        return error.reason
    if name in seen:
        return "duplicate"
    seen.add(name)
    return None


def test_rates_of_the_kinds(demo: DemoTruth) -> None:
    kinds = Counter(row.kind.partition(":")[0] for row in demo.rows)
    rows = len(demo.rows)
    for kind, rate in {
        "exact_duplicate": 0.05,
        "near_duplicate": 0.05,
        "wrong_answer": 0.04,
        "malformed": 0.02,
    }.items():
        assert abs(kinds[kind] / rows - rate) < 0.005
    assert sum(kinds.values()) == rows
    damages = {row.kind.partition(":")[2] for row in demo.rows} - {""}
    assert damages == {"broken_json", "invalid_utf8", "not_an_object", "missing_field", "empty_response"}


def test_bytes_depend_on_the_seed_alone(tmp_path: Path) -> None:
    def contents(folder: str, seed: int) -> dict[str, bytes]:
        made = make_demo(tmp_path / folder, seed=seed, rows=300)
        return {str(path.relative_to(made.folder)): path.read_bytes() for path in made.folder.rglob("*.*")}

    one, again, other = contents("one", 3), contents("again", 3), contents("other", 4)
    assert one == again
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)
