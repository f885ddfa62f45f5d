"""Texts of exported rows: as they were read, or in the forms that trainers read."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from s2l_ray.artifacts.schemas import TEXT_FOLDER
from s2l_ray.catalog.export.chosen import Chosen
from s2l_ray.config.sections import Source
from s2l_ray.core.data.examples import chat_up_to, read_row
from s2l_ray.core.data.turns import Example, RejectedRow, Turn
from s2l_ray.errors import ConfigError, DamagedError

WEIGHT = "sample_weight"

Row = dict[str, Any]


def original_rows(chosen: Chosen) -> Iterator[list[str]]:
    """The rows as JSON texts, shard by shard, in pool order; a row with several chosen answers once."""
    for examples in _read_examples(chosen):
        positions = [(one["file"], one["line"]) for one in examples]
        yield [
            _with_weight(one["raw"], one, answers=False)
            for number, one in enumerate(examples)
            if one["answer"] is None or number == 0 or positions[number] != positions[number - 1]
        ]


def original_answers(chosen: Chosen) -> Iterator[list[str]]:
    """The examples as JSON texts: rows as they are, and an answer of a chat as a chat that ends with it.

    Earlier answers of that chat have weight 0.
    """
    sources = _sources(chosen)
    for examples in _read_examples(chosen):
        texts = []
        for one in examples:
            text = one["raw"] if one["answer"] is None else _chat_up_to(one, sources)
            texts.append(_with_weight(text, one, answers=True))
        yield texts


def trainer_rows(chosen: Chosen, messages: bool) -> Iterator[list[str]]:
    """The examples as `{messages, tools}`, or as `{prompt, completion}`.

    The texts of a pair are those that the proxy was trained on.
    """
    sources = _sources(chosen)
    for examples in _read_examples(chosen):
        rows = [_messages(one, sources) if messages else _pair(one) for one in examples]
        weights = [{} if one["weight"] is None else {WEIGHT: one["weight"]} for one in examples]
        yield [json.dumps(row | weight, ensure_ascii=False) for row, weight in zip(rows, weights, strict=True)]


def has_chats(chosen: Chosen) -> bool:
    """Whether any of the examples is a chat."""
    sources = _sources(chosen)
    return any(
        one["answer"] is not None or _read(one, sources).chat for examples in _read_examples(chosen) for one in examples
    )


def _read_examples(chosen: Chosen) -> Iterator[list[Row]]:
    """Prompt, response, raw, file, line, answer and weight of the examples, shard by shard."""
    texts = chosen.dataset.shards(TEXT_FOLDER)
    for shard in chosen.shards():
        row_M, weight_M = chosen.rows(shard)
        columns = ["prompt", "response", "raw", "file", "line", "answer"]
        rows = chosen.dataset.read_file(texts[shard].path, columns).take(row_M).to_pylist()
        yield [row | {"weight": weight_M[number] if weight_M else None} for number, row in enumerate(rows)]


def _sources(chosen: Chosen) -> list[Source]:
    return [Source.model_validate(source) for source in chosen.dataset.manifest.config["data"]["sources"]]


def _with_weight(text: str, one: Row, answers: bool) -> str:
    """The row with its weight as the last field, other fields as they are spelled."""
    if one["weight"] is None:
        return text
    if one["answer"] is not None and not answers:
        raise ConfigError("--sample-weights: the examples are answers of chats; add --answers")
    if WEIGHT in json.loads(text):
        raise ConfigError(f"--sample-weights: the rows have a field {WEIGHT}; rename it")
    return f'{text.rstrip()[:-1]}, "{WEIGHT}": {json.dumps(one["weight"])}}}'


def _read(one: Row, sources: Sequence[Source], answer: int = 0) -> Example:
    """The example of a row, read as the first source that fits reads it, with more learned turns than `answer`."""
    row = json.loads(one["raw"])
    for source in sources:
        with contextlib.suppress(RejectedRow):
            example = read_row(row, source.format, source.fields, source.roles).example
            if answer < len(example.answers):
                return example
    raise DamagedError(f"no source of the dataset reads a row with {answer + 1} answers: {one['raw'][:200]}")


def _chat_up_to(one: Row, sources: Sequence[Source]) -> str:
    return json.dumps(chat_up_to(_read(one, sources, one["answer"]), one["answer"]), ensure_ascii=False)


def _messages(one: Row, sources: Sequence[Source]) -> Row:
    example = _read(one, sources, one["answer"] or 0)
    if one["answer"] is not None:
        return dict(chat_up_to(example, one["answer"]))
    if not example.chat:
        turns = [Turn("user", one["prompt"]), Turn("assistant", one["response"])]
        return {"messages": [{"role": turn.role, "content": turn.text} for turn in turns]}
    messages = [
        {"role": turn.role, "content": turn.text, **turn.fields} | ({"weight": 0} if turn.context else {})
        for turn in example.turns
    ]
    return {"messages": messages, **({"tools": list(example.tools)} if example.tools else {})}


def _pair(one: Row) -> Row:
    return {"prompt": one["prompt"], "completion": one["response"]}
