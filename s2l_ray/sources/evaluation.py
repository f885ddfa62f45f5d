"""Evaluation sets: their questions, with the file and line of each, for decontamination."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.core.data.chat import is_chat, read_turns, turn_list
from s2l_ray.core.data.decontamination import EvaluationRow
from s2l_ray.core.data.turns import RejectedRow
from s2l_ray.errors import ConfigError
from s2l_ray.sources.files.paths import ALL
from s2l_ray.sources.ranges import RangeReader, list_ranges
from s2l_ray.sources.spec import SourceSpec

# fields that hold the whole question, in the order in which they are tried
QUESTION_FIELDS = ("question", "problem", "prompt", "query", "instruction", "input")
CHAT_FIELDS = ("messages", "conversations")


@dataclass(frozen=True)
class EvaluationSpec:
    """An evaluation file or folder. question: fields whose values, joined, are the question; empty to guess them."""

    path: str
    question: tuple[str, ...] = ()


@dataclass(frozen=True)
class NumberedRow:
    """A row of an evaluation set. source: index of its set. line: in its file."""

    source: int
    file: str
    line: int
    row: Mapping[str, Any]


def read_evaluation_rows(sets: Sequence[SourceSpec], root: str, key: str) -> Iterator[NumberedRow]:
    """The rows of evaluation sets, in order. Raises `ConfigError`, naming `key`, for a missing file or a faulty row."""
    lines_before: dict[str, int] = {}
    for one in list_ranges(sets, root):
        reader, before = RangeReader(one), lines_before.get(one.uri, 0)
        for raw in reader:
            if raw.row is None:
                raise ConfigError(f"{key}: {one.file} line {before + raw.line}: {raw.reason} ({raw.detail})")
            yield NumberedRow(one.source, one.file, before + raw.line, raw.row)
        lines_before[one.uri] = before + reader.lines


def read_questions(specs: Sequence[EvaluationSpec], root: str) -> Iterator[EvaluationRow]:
    """The questions of all evaluation sets of `data.exclude`, in order.

    Raises `ConfigError` for a missing file, and for a file with a row whose question is not known.
    """
    sets = [SourceSpec(path=spec.path, split=ALL) for spec in specs]
    for one in read_evaluation_rows(sets, root, "data.exclude"):
        spec = specs[one.source]
        question = question_of(one.row, spec.question)
        if question is None:
            raise ConfigError(
                f"data.exclude: {one.file} line {one.line} has no question among its fields "
                f"{', '.join(list(one.row)[:8])}; name it: {{path: {spec.path}, question: FIELD}}"
            )
        yield EvaluationRow(one.file, one.line, question)


def question_of(row: Mapping[str, Any], fields: Sequence[str] = ()) -> str | None:
    """The question of an evaluation row from these fields or, without any, from guessed ones; None if there is none.

    Guessed are the turns of a chat by the user, an instruction with its input, and common names.
    """
    if fields:
        values = [row.get(name) for name in fields]
        return "\n".join(map(str, values)) if None not in values else None
    for name in CHAT_FIELDS:
        if is_chat(row.get(name)):
            return _chat_question(row[name])
    for name in QUESTION_FIELDS:
        if isinstance(row.get(name), str) and row[name].strip():
            context = row.get("input") if name == "instruction" else None
            return f"{row[name]}\n{context}" if isinstance(context, str) else str(row[name])
    return None


def _chat_question(chat: object) -> str | None:
    """The texts of the user's turns; turns that cannot be read are skipped."""
    texts = []
    for turn in turn_list(chat) or []:
        with contextlib.suppress(RejectedRow):
            texts += [one.text for one in read_turns([turn], {}, {}) if one.role == "user"]
    return "\n".join(filter(None, texts)) or None
