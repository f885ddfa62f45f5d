"""The pages of the documentation: their blocks of code, headings, links and commands.

The mark `test` after the language of a block (`sh test`, `python test`) has `test_blocks.py` run it. A name after
`yaml` is the file that the block is, for later blocks of the page.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
SHELL = "sh"
RUN = "test"
# ends the arguments of a command in a line of shell
_ENDS = re.compile(r"[|&;<>()]+|2>&1")
_PROGRAMS = (["s2l"], ["python", "-m", "s2l_ray"])


@dataclass(frozen=True)
class Block:
    """A fenced block. mark: what follows its language. line: of its fence."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def _inline(page: Path, kind: str) -> Iterator[Token]:
    for token in _tokens(page):
        yield from (child for child in token.children or () if child.type == kind)


def blocks(page: Path) -> list[Block]:
    found = []
    for token in _tokens(page):
        if token.type == "fence":
            language, _, mark = token.info.partition(" ")
            found.append(Block(page, (token.map or [0])[0] + 1, language, mark.strip(), token.content))
    return found


def links(page: Path) -> list[str]:
    return [str(token.attrs["href"]) for token in _inline(page, "link_open")]


def inline_code(page: Path) -> list[str]:
    return [token.content for token in _inline(page, "code_inline")]


def anchors(page: Path) -> set[str]:
    """Names of the headings as GitHub makes them."""
    found: Counter[str] = Counter()
    tokens = _tokens(page)
    for opening, heading in pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(child.content for child in heading.children or () if child.type in ("text", "code_inline"))
            found[re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")] += 1
    return {f"{name}-{number}" if number else name for name, count in found.items() for number in range(count)}


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every call of s2l in lines of shell."""
    for line in text.replace("\\\n", " ").splitlines():
        if "s2l" not in line:
            continue
        reader = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        reader.whitespace_split = True
        yield from _calls(list(reader))


def _calls(parts: list[str]) -> Iterator[list[str]]:
    for program in _PROGRAMS:
        for start in range(len(parts)):
            starts_a_command = start == 0 or _ENDS.fullmatch(parts[start - 1]) or parts[start - 1] == "--"
            if starts_a_command and parts[start : start + len(program)] == program:
                rest = parts[start + len(program) :]
                end = next((number for number, part in enumerate(rest) if _ENDS.fullmatch(part)), len(rest))
                yield rest[:end]
