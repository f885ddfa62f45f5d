r"""Extraction of the answer, or of a program, from the output of a model.

An answer is, in this order: the last \boxed{...}; the text after the last "####" or "the answer is"; the output of a
program on its last line; the last number, choice or formula of the text.
"""

import ast
import re
import warnings
from typing import Literal

from s2l_ray.core.evaluation.numbers import find_numbers

# text: the whole output is the answer.
AnswerType = Literal["number", "choice", "expression", "text"]

TRIGGER = re.compile(r"####|\b(?:final |correct )?answer(?: is|\s*[:=])(?: that)?:?", re.IGNORECASE)
SENTENCE_END = re.compile(r"\n|\.(?:\s|$)")
# a fenced block: its language and its text
FENCE = re.compile(r"```[ \t]*([^\s`]*)[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
PYTHON = ("python", "python3", "py")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
# From the clearest form of a choice to the least clear; "A" before small letters is an article.
CHOICES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\(\s*([A-Ja-j])\s*\)",
        r"\b([A-HJ])(?=\s*(?:[).:,]|$))",
        r"\b([B-HJ]|A(?! [a-z]))\b(?!['\u2019])",
        r"^\s*([a-j])\s*[.)]?\s*$",
    )
)


def extract_answer(text: str, answer_type: AnswerType) -> str | None:
    """The answer that an output states, or None if it has none."""
    if answer_type == "text":
        return text.strip() or None
    boxed = last_boxed(text)
    if boxed is not None:
        return _typed(boxed, answer_type, stated=True)
    for trigger in reversed(list(TRIGGER.finditer(text))):
        sentence = SENTENCE_END.split(text[trigger.end() :].lstrip(" :\n*"), maxsplit=1)[0]
        found = _typed(sentence, answer_type, stated=True)
        if found is not None:
            return found
    return _typed(text, answer_type, stated=False)


def extract_printed_answer(output: str, answer_type: AnswerType) -> str | None:
    """The answer in what a program printed: an expression is its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return None
    stated = answer_type != "expression" or last_boxed(output) is not None or TRIGGER.search(output)
    return extract_answer(output, answer_type) if stated else lines[-1]


def last_boxed(text: str) -> str | None:
    r"""Content of the last \boxed{...} or \fbox{...} with balanced braces, or of `\boxed 5`; None without any."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].removeprefix("\\boxed").removeprefix("\\fbox").lstrip()
    if not rest.startswith("{"):
        return re.split(r"[\s$]", rest, maxsplit=1)[0] or None
    depth = 0
    for position, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:position].strip() or None
    return None


def find_program(text: str) -> str | None:
    """The Python program in an output: its fenced blocks, else the whole output if that prints something.

    Blocks of another language are not of the program, nor are unlabelled blocks after one labelled as Python: they
    show its output. A program that only defines `solution()` is completed by printing what that returns.
    """
    blocks = [(language.lower(), block) for language, block in FENCE.findall(text)]
    labelled = [index for index, (language, _) in enumerate(blocks) if language in PYTHON]
    last = max(labelled, default=len(blocks))
    program = [block for language, block in blocks[: last + 1] if not language or language in PYTHON]
    source = "\n".join(program) if blocks else text.strip("\n")
    tree = _parse(source)
    if tree is None:
        return None
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if any(isinstance(node, ast.Call) and ast.unparse(node.func) == "print" for node in ast.walk(tree)):
        return source
    return f"{source}\nprint(solution())\n" if "solution" in functions else None


def _parse(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _typed(text: str, answer_type: AnswerType, *, stated: bool) -> str | None:
    """The number, choice or expression in a text. stated: the text is an answer, and not a whole output."""
    if answer_type == "number":
        return _number(text, stated)
    if answer_type == "choice":
        return _choice(text, stated)
    if stated:
        return text.strip(" *$").rstrip(" .$") or None
    formulas = [next(filter(None, groups)) for groups in FORMULA.findall(text)]
    return formulas[-1].strip() if formulas else _number(text, stated)


def _number(text: str, stated: bool) -> str | None:
    """The first number of an answer after its last equals sign, or the last number of an output."""
    numbers = find_numbers(text.rpartition("=")[2] if stated else text) or find_numbers(text)
    return (numbers[0] if stated else numbers[-1]) if numbers else None


def _choice(text: str, stated: bool) -> str | None:
    """The first choice of an answer, or the last one of an output, as a capital letter."""
    for pattern in CHOICES:
        letters = pattern.findall(text)
        if letters:
            return str(letters[0] if stated else letters[-1]).upper()
    return None
