"""Comparison of an extracted answer with its reference.

Numbers are compared by `numbers_equal`, choices by their letter, expressions after the published normalization of MATH
and then symbolically by math-verify (package `math-verify`, extra `evaluate`).
"""

import re

from s2l_ray.core.evaluation.extraction import AnswerType, last_boxed
from s2l_ray.core.evaluation.numbers import find_numbers, numbers_equal, simplify_numbers

NORMALIZATIONS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|displaystyle|limits)(?![a-zA-Z])|\\[!,;:>]|\\ |\\?\$|\^\{?\\circ\}?|\\?%|\\degree", ""),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\frac\s*(\w)\s*(\w)(?![\w}])", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"^\s*(?:[a-zA-Z]|[a-z]\([a-z]\))\s*(?:=|\\in(?![a-z]))\s*", ""),
        (r"(?<=[\d}])\s*\\(?:text|mbox|mathrm|textrm)\s*\{[^{}]*\}(?:\^\{?\d\}?)?\s*$", ""),  # a unit
        (r"\\(?:text|textbf|mbox|mathrm|textrm)\s*\{([^{}]*)\}", r"\1"),
        (r"(?<=\d),(?=\d{3}(?!\d))|\{,\}", ""),
        (r"(?<![\d.])\.(?=\d)", "0."),
        (r"(?<=\d)\.0+(?!\d)", ""),
        (r"(?<![\w}/])(-?\d+)/(\d+)(?![\w/])", r"\\frac{\1}{\2}"),
        (r"\s+", ""),
    )
)
UNIT = re.compile(r"\\(?:text|mbox|mathrm|textrm)\s*\{[^{}]*\}(?:\^\{?[23]\}?)?|\^\{?\\circ\}?|\\degree")
FUNCTIONS = frozenset({"pi", "log", "ln", "exp", "sin", "cos", "tan", "sqrt", "or", "and"})
# A name, in which letters are no factors.
NAME = re.compile(r"[A-Za-z]{4,}")
LIST = re.compile(r"^\s*[\[({]?\s*([^\[\](){}]+?)\s*[\])}]?\s*$")
# math-verify stops a comparison after this time, which needs the main thread.
SECONDS = 5


def reference_type(answer_type: AnswerType, reference: str) -> AnswerType:
    """The answer type of one question of a set of numbers, where a reference can be a capital letter or a name."""
    if answer_type != "number" or find_numbers(reference):
        return answer_type
    return "choice" if re.fullmatch(r"[A-J]", reference.strip()) else "expression"


def reference_text(value: str | int | float | bool, answer_type: AnswerType) -> str:
    r"""A reference as text; numbers without the decimals that are zero.

    Of a worked solution, the answer that follows #### (GSM8K) or is in \boxed (MATH).
    """
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if answer_type == "text":
        return text
    return last_boxed(text) or text.rpartition("####")[2].strip()


def answers_equal(answer: str, reference: str, answer_type: AnswerType) -> bool:
    """Whether an extracted answer equals the reference.

    Raises `ImportError` for an expression that only math-verify can compare, if it is not installed.
    """
    if answer_type == "choice":
        return answer.strip("() .").upper() == reference.strip("() .").upper()
    if answer_type == "text":
        return answer.split() == reference.split()
    if answer_type == "number":
        return _numbers_equal(answer, reference)
    return _expressions_equal(answer, reference)


def normalize_expression(expression: str) -> str:
    """An expression without spaces, units and commands of layout, and with one form of fractions and roots."""
    for pattern, replacement in NORMALIZATIONS:
        expression = pattern.sub(replacement, expression)
    return expression.rstrip(".")


def _numbers_equal(answer: str, reference: str) -> bool:
    found, expected = find_numbers(answer), find_numbers(reference)
    return bool(found and expected) and numbers_equal(found[0], expected[0])


def _expressions_equal(answer: str, reference: str) -> bool:
    one, other = normalize_expression(answer), normalize_expression(reference)
    if one == other:
        return True
    if NAME.fullmatch(one) or NAME.fullmatch(other):
        return one.casefold() == other.casefold()
    number, expected = _single_number(answer), _single_number(reference)
    if number is not None and expected is not None:
        return numbers_equal(number, expected)
    return _lists_equal(answer, reference) or _symbolically_equal(answer, reference)


def _single_number(expression: str) -> str | None:
    """The number of an expression that is one number, with or without a unit; else None."""
    text = simplify_numbers(UNIT.sub(" ", expression))
    numbers = find_numbers(text)
    if len(numbers) != 1:
        return None
    others = [part.strip(".,").lower() for part in text.replace(numbers[0], " ", 1).split()]
    is_unit = all(re.fullmatch(r"[a-z]{2,}", part) and part not in FUNCTIONS for part in others if part)
    return numbers[0] if is_unit else None


def _lists_equal(answer: str, reference: str) -> bool:
    """Whether two lists of numbers are equal in order, of which the reference is in [] and the answer may be bare."""
    if not reference.strip().startswith("["):
        return False
    found, expected = LIST.match(answer), LIST.match(reference)
    if not found or not expected:
        return False
    one, other = (re.split(r"\s*(?:,|\band\b)\s*", match[1]) for match in (found, expected))
    return len(one) == len(other) and all(map(_numbers_equal, one, other))


def _symbolically_equal(answer: str, reference: str) -> bool:
    from math_verify import parse, verify

    parsed = parse(f"${reference}$", parsing_timeout=SECONDS), parse(f"${answer}$", parsing_timeout=SECONDS)
    return bool(verify(*parsed, timeout_seconds=SECONDS))
