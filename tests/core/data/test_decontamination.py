"""Overlap with evaluation sets: against a search over sets of words, and borders of the rule."""

import random

import pytest

from s2l_ray.core.data.decontamination import EvaluationIndex, EvaluationRow, Overlap
from s2l_ray.core.data.examples import FORMATS, question_texts

LONG = "a train leaves the city at noon and travels east at sixty miles per hour toward the coast"
ROWS = [
    EvaluationRow("gsm.jsonl", 3, "How many apples are left?"),
    EvaluationRow("gsm.jsonl", 4, LONG),
    EvaluationRow("math.jsonl", 1, "What is 7 - 2?"),
    EvaluationRow("math.jsonl", 2, "..."),
]
INDEX = EvaluationIndex(ROWS)


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("How many apples are left?", 3),
        ("how many  APPLES\nare left", 3),
        ("“How many apples, are left?!”", 3),
        ("How many pears are left?", None),
        ("How many apples are left today?", None),
        ("What is 7 - 2?", 1),
        ("what is 7-2", 1),
        ("What is 7 + 2?", None),
        ("What is 7 2?", None),
        ("", None),
        ("?!", None),
    ],
)
def test_prompts_are_equal_but_for_case_spaces_and_sentence_punctuation(prompt: str, line: int | None) -> None:
    found = INDEX.find([prompt])
    assert (found.line if found else None) == line
    assert found is None or found.words == ""


def test_thirteen_words_in_order_are_an_overlap_and_twelve_are_not() -> None:
    words = LONG.split()
    for first in range(len(words) - 12):
        text = " ".join(["once", *words[first : first + 13], "again"])
        assert INDEX.find([], text) == Overlap("gsm.jsonl", 4, " ".join(words[first : first + 13]))
        assert INDEX.find([" ".join(["once", *words[first : first + 12], "again"])]) is None
        assert INDEX.find([], " ".join(words[first : first + 13][::-1])) is None
    punctuated = "".join(f"{word.upper()}, - " for word in words[2:15])
    assert INDEX.find(["other", punctuated], "other") == Overlap("gsm.jsonl", 4, " ".join(words[2:15]))


def test_overlaps_equal_those_of_a_search_over_sets() -> None:
    rng = random.Random(0)
    vocabulary = ["zero", "one"]  # 8,192 possible n-grams, so that some are shared by chance
    sentences = [rng.choices(vocabulary, k=rng.randint(1, 30)) for _ in range(300)]
    evaluation, pool = sentences[:60], sentences[60:]
    index = EvaluationIndex(EvaluationRow("set", row, " ".join(words)) for row, words in enumerate(evaluation))

    def ngrams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[start : start + 13]) for start in range(len(words) - 12)}

    hits = 0
    for words in pool:
        text = " ".join(words)
        found = index.find([text])
        equal = [row for row, other in enumerate(evaluation) if other == words]
        shared = [row for row, other in enumerate(evaluation) if ngrams(words) & ngrams(other)]
        assert (found is not None) == bool(equal or shared)
        if found is not None:
            hits += 1
            assert found.line == equal[0] if equal else found.line in shared
    assert 10 < hits < len(pool)


def test_an_index_without_rows_finds_nothing() -> None:
    assert EvaluationIndex([]).find([LONG], LONG) is None


def test_the_alpaca_template_is_no_part_of_a_question() -> None:
    row = {"instruction": "Solve it.", "input": "How many apples are left?", "output": "3"}
    texts = question_texts(FORMATS["alpaca"](row, {}))
    found = INDEX.find(texts)
    assert found is not None and (found.line, found.words) == (3, "")
    assert question_texts(FORMATS["alpaca"]({"instruction": "Add.", "output": "3"}, {})) == ["Add."]
    template = EvaluationIndex([EvaluationRow("set", 1, FORMATS["alpaca"](row, {}).turns[0].text)])
    other = question_texts(FORMATS["alpaca"]({"instruction": "Add.", "output": "3"}, {}))
    assert template.find(other) is None
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "3"}]}
    assert question_texts(FORMATS["messages"](chat, {})) == ["Hi"]
