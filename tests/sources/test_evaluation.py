"""Questions of evaluation sets: which field holds them, and their lines."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.errors import ConfigError
from s2l_ray.sources.evaluation import EvaluationSpec, question_of, read_questions


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"question": "A?", "answer": "B"}, "A?"),
        ({"answer": "B", "problem": "A?"}, "A?"),
        ({"instruction": "Do.", "input": "A?", "output": "B"}, "Do.\nA?"),
        ({"instruction": "Do.", "output": "B"}, "Do."),
        ({"prompt": "A?", "completion": "B"}, "A?"),
        (
            {
                "messages": [
                    {"role": "system", "content": "S"},
                    {"role": "user", "content": "A?"},
                    {"role": "assistant", "content": "B"},
                ]
            },
            "A?",
        ),
        ({"conversations": [{"from": "human", "value": "A?"}, {"from": "gpt", "value": "B"}]}, "A?"),
        ({"messages": [{"role": "User", "content": [{"type": "text", "text": "A?"}]}]}, "A?"),
        ({"messages": json.dumps([{"role": "user", "content": "A?"}, {"role": "narrator", "content": "N"}])}, "A?"),
        ({"question": None, "prompt": "A?"}, "A?"),
        ({"answer": "B", "id": 3}, None),
    ],
)
def test_the_question_is_guessed(row: dict[str, Any], question: str | None) -> None:
    assert question_of(row) == question


def test_named_fields_are_joined() -> None:
    row = {"Body": "Tom has 3.", "Question": "How many?", "question": "no"}
    assert question_of(row, ["Body", "Question"]) == "Tom has 3.\nHow many?"
    assert question_of(row, ["Body", "Missing"]) is None


def test_files_and_folders_in_order_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    lines = ["", json.dumps({"question": "first"}), "", json.dumps({"question": "second"})]
    (tmp_path / "sets" / "a.jsonl").write_text("\n".join(lines))
    table = pa.table({"text": [f"row {number}" for number in range(6)]})
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=2)
    specs = [EvaluationSpec("sets"), EvaluationSpec("b.parquet", ("text",))]
    found = [(one.file, one.line, one.question) for one in read_questions(specs, str(tmp_path))]
    assert found == [
        ("sets/a.jsonl", 2, "first"),
        ("sets/a.jsonl", 4, "second"),
        *[("b.parquet", number + 1, f"row {number}") for number in range(6)],
    ]


@pytest.mark.parametrize("line", ["{", json.dumps({"id": 1, "level": 2})])
def test_a_row_without_a_question_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "first"}) + "\n" + line)
    with pytest.raises(ConfigError, match=r"a\.jsonl line 2"):
        list(read_questions([EvaluationSpec("a.jsonl")], str(tmp_path)))
    with pytest.raises(ConfigError, match="missing"):
        list(read_questions([EvaluationSpec("missing.jsonl")], str(tmp_path)))
