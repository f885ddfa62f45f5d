"""Check that package, documentation, job files and help texts use the standard terms of the project.

RULES holds the terms to avoid and what to write instead. `python -m tests.test_vocabulary` prints every hit with its
file and line, and a count per folder.
"""

import ast
import bisect
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer.main

CHECKOUT = Path(__file__).parents[1]
PACKAGE = sorted((CHECKOUT / "s2l_ray").rglob("*.py"))
TEXTS = [
    path
    for pattern in ("*.md", "docs/*.md", "bench/*.md", "jobs/*.yaml", "cluster.yaml", "docker/*", "Makefile")
    for path in sorted(CHECKOUT.glob(pattern))
]


@dataclass(frozen=True)
class Rule:
    """A term to avoid.

    prose: regular expression over comments, strings and documents, on text with single spaces.
    names: regular expression over identifiers, file names and keys in the form `_set_aside_`.
    """

    instead: str
    prose: str
    names: str = r"(?!)"


RULES = (
    Rule("artifact", r"\bartefacts?\b", r"_artefacts?_"),
    Rule("rejected, failed, skipped, moved to replaced/", r"\baside\b(?! from)", r"_aside_"),
    Rule("failed", r"\bat fault\b"),
    Rule("rejected", r"\bbad (?:rows?|units?|lines?|files?|examples?)\b", r"^_bad_$|_bad_rows?_"),
    Rule("complete", r"\bfound ready\b"),
    Rule("exists, is complete, is available", r"\b(?:is|are|was|were) there\b"),
    Rule("is, exists, is stored", r"\b(?:stands?|standing|stood)\b(?! for\b)", r"_stands?_"),
    Rule("is, is stored", r"(?<!-)\b(?:lie|lies|lay|lain|lying)\b", r"_lies?_"),
    Rule("resume, continue", r"\b(?:go|goes|going|went|gone) on\b", r"_go(?:es)?_on_"),
    Rule("interrupted, incomplete", r"\b(?:broken|breaks?|broke) off\b", r"_broken_off_"),
    Rule("retry, rebuild, overwrite", r"\b(?:done|begun|made|tried) (?:again|anew|once more)\b"),
    Rule("select, selected row", r"\b(?:picks?|picked|picking)\b", r"_pick(?:s|ed)?_"),
    Rule("padded / packed attention", r"\b(?:plain|packed|padded|the two|both) ways?\b"),
    Rule("padded", r"\bplain (?:path|forward|backward|gradient|scoring|training|attention)\b", r"_plain_"),
    Rule("resource request, resources, space", r"\brooms?\b", r"_room_"),
    Rule("monitor, unit tracker", r"\bdesks?\b", r"_desk_"),
    Rule("report, print, state", r"\b(?:say|says|saying|said)\b", r"_(?:say|says|said)_"),
    Rule("report, distinguish", r"\b(?:tell|tells|telling|told|untold)\b", r"_(?:tell|tells|telling|told)_"),
    Rule("receive, read", r"\b(?:hear|hears|heard|unheard)\b", r"_(?:hear|heard|unheard)_"),
    Rule("message, text, argument", r"(?<!-bit )\bwords?\b(?! problems?\b)", r"(?<!_to)_words?_"),
    Rule("URI, node, resources, position", r"(?<!in )(?<!take )(?<!takes )\bplaces?\b", r"(?<!_in)_places?_"),
    Rule("check, verify", r"\b(?:proofs?|prove|proves|proved|proven|proving)\b", r"_(?:proof|prove|proved)_"),
    Rule("estimate", r"\bforecasts?\b", r"_forecasts?_"),
    Rule("hint", r"\bremed(?:y|ies)\b", r"_remed(?:y|ies)_"),
    Rule("return", r"\b(?:gave|(?:give|gives|given|giving) back)\b", r"_gives_"),
    Rule("no process, another process", r"\b(?:nobody|somebody)\b"),
    Rule("a sentence about arguments and results", r"(?:^|\s)(?-i:In|Out): "),
    Rule("a hint that does not repeat paid work", r"\b(?:lower|reduce) (?:data|proxy|cluster)\."),
    Rule("nothing: a stale lock needs no option", r"--take-over\b", r"_take_over_"),
    Rule("resources.score.allow_failures", r"\bscore\.failures\b"),
    Rule("s2l gc --weights", r"\bkeep_checkpoints\b", r"_keep_checkpoints_"),
)
# First words of a docstring that is neither a noun phrase nor an imperative.
OPENINGS = re.compile(r"(?:What|Who|Whoever|How|Where|Why|By|Of|So)\b")


@dataclass(frozen=True)
class Allowed:
    """A legitimate use: a glob over files, a regular expression over the text around the hit, and the reason."""

    files: str
    text: str
    reason: str


ALLOWED = (
    Allowed(
        "s2l_ray/demo/problems.py",
        r"^places?$|^a room of|change is there\?",
        "texts of the embedded word problems, whose places are places; a change would change the data set",
    ),
    Allowed("s2l_ray/storage/*.py", r"^tell$", "the method of file objects in io"),
    Allowed("s2l_ray/core/model_shape.py", r"tie_word_embeddings", "a field of the configs of transformers"),
    Allowed("s2l_ray/core/data/decontamination.py", r"word", "the words of a text, of which its n-grams consist"),
    Allowed("*.md", r"\b13\b.*\bwords|by words|between words", "the words that decontamination compares"),
)
MOST_ALLOWED = 15
CONTEXT = 30


@dataclass(frozen=True)
class Passage:
    """A piece of text that starts at a line of a file. A name is one identifier or key, all else is prose."""

    file: str
    line: int
    text: str
    name: bool = False
    docstring: bool = False


@dataclass(frozen=True)
class Hit:
    """A use of a term to avoid. `context` is the text around it."""

    file: str
    line: int
    term: str
    instead: str
    context: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.term!r} -> {self.instead}   [{self.context}]"


def name_form(name: str) -> str:
    """The words of an identifier, key or file name: `BadRow` and `bad_row` are `_bad_row_`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return f"_{'_'.join(word.lower() for word in re.split(r'[^A-Za-z0-9]+', spaced) if word)}_"


def hits_in(passage: Passage) -> Iterator[Hit]:
    """Every hit of a passage."""
    if passage.name:
        form = name_form(passage.text)
        for rule in RULES:
            if re.search(rule.names, form):
                yield Hit(passage.file, passage.line, passage.text, rule.instead, passage.text)
        return
    flat, starts, lines = _flatten(passage)
    for rule in RULES:
        for match in re.finditer(rule.prose, flat, re.IGNORECASE):
            line = lines[max(0, bisect.bisect_right(starts, match.end() - 1) - 1)]
            context = flat[max(0, match.start() - CONTEXT) : match.end() + CONTEXT]
            yield Hit(passage.file, line, match.group().strip(), rule.instead, context)
    if passage.docstring and (opening := OPENINGS.match(flat)):
        yield Hit(passage.file, passage.line, opening.group(), "a noun phrase or an imperative", flat[: 2 * CONTEXT])


def _flatten(passage: Passage) -> tuple[str, list[int], list[int]]:
    """The text on one line with single spaces, the position of each of its words, and the line of each."""
    found = [
        (word, passage.line + offset) for offset, line in enumerate(passage.text.split("\n")) for word in line.split()
    ] or [("", passage.line)]
    starts, position = [], 0
    for word, _ in found:
        starts.append(position)
        position += len(word) + 1
    return " ".join(word for word, _ in found), starts, [line for _, line in found]


def passages() -> Iterator[Passage]:
    """Everything that is checked."""
    for path in PACKAGE:
        name = path.relative_to(CHECKOUT).as_posix()
        yield Passage(name, 1, path.stem, name=True)
        yield from _python(path.read_text(), name)
    for path in TEXTS:
        yield Passage(path.relative_to(CHECKOUT).as_posix(), 1, path.read_text())
    yield from _help()


def _python(text: str, file: str) -> Iterator[Passage]:
    """Comments, strings, and the names that the file defines."""
    yield from _comments(text, file)
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {id(node.value) for node in first if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 1)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_key = re.fullmatch(r"[\w.-]+", node.value) is not None
            yield Passage(file, line, node.value, name=is_key, docstring=id(node) in docstrings)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield Passage(file, line, node.name, name=True)
        elif isinstance(node, ast.arg):
            yield Passage(file, line, node.arg, name=True)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield Passage(file, line, node.id, name=True)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield Passage(file, line, node.attr, name=True)


def _comments(text: str, file: str) -> Iterator[Passage]:
    """Comments; those on adjacent lines form one passage."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if block and line != last + 1:
            yield Passage(file, first, "\n".join(block))
            block = []
        if not block:
            first = line
        block.append(token.string.lstrip("#"))
        last = line
    if block:
        yield Passage(file, first, "\n".join(block))


def _help() -> Iterator[Passage]:
    """The help texts of `s2l --help` and `s2l VERB --help`, unwrapped."""
    from s2l_ray.cli import app

    group: Any = typer.main.get_command(app)
    for verb, command in {"": group, **group.commands}.items():
        file = " ".join(f"s2l {verb} --help".split())
        texts = [command.help, command.epilog, *(getattr(parameter, "help", None) for parameter in command.params)]
        yield from (Passage(file, 1, text) for text in texts if text)
        options = [option for parameter in command.params for option in parameter.opts]
        yield from (Passage(file, 1, option.lstrip("-"), name=True) for option in [*options, verb])


def allowance(hit: Hit) -> Allowed | None:
    """The first row of ALLOWED that covers a hit."""
    for allowed in ALLOWED:
        if fnmatch(hit.file, allowed.files) and re.search(allowed.text, hit.context, re.IGNORECASE):
            return allowed
    return None


def all_hits() -> list[Hit]:
    """Every hit that no row of ALLOWED covers, in order of files and lines."""
    found = {hit for passage in passages() for hit in hits_in(passage) if allowance(hit) is None}
    return sorted(found, key=lambda hit: (hit.file, hit.line, hit.term))


def folder_counts(hits: list[Hit]) -> Counter[str]:
    """Hits per folder of the package, and per document."""
    return Counter(hit.file.rpartition("/")[0] if hit.file.endswith(".py") else hit.file for hit in hits)


def test_texts_use_the_standard_terms() -> None:
    hits = all_hits()
    if hits:
        pytest.fail(f"{len(hits)} hits:\n" + "\n".join(map(str, hits)), pytrace=False)


def test_the_allow_list_is_short_and_used() -> None:
    assert len(ALLOWED) <= MOST_ALLOWED
    used = {allowance(hit) for passage in passages() for hit in hits_in(passage)}
    assert set(ALLOWED) <= used, f"remove {set(ALLOWED) - used}"


@pytest.mark.parametrize(
    "text",
    [
        "The artefact is moved\n    aside.",
        "rows at fault",
        "a bad row",
        "found ready",
        "the file is there",
        "the artifact stands",
        "where the file lies",
        "the job goes on",
        "units are done again",
        "It picks rows.",
        "the plain way",
        "wait for room",
        "a word from the worker",
        "the subset's place",
        "what a worker says",
        "the remedy is",
        "a forecast",
        "proves the model",
        "In: rows. Out: tokens.",
        "out of memory; lower data.shard_size",
    ],
)
def test_terms_to_avoid_are_found(text: str) -> None:
    assert list(hits_in(Passage("text", 1, text)))


@pytest.mark.parametrize(
    "text",
    [
        "Unpickle nothing, improve placement, provide understanding, and stand for T.",
        "two 64-bit words and 5,000 word problems",
        "modified in place with a placeholder",
        "given one seed, provenance of the underlying layout",
        "plain Parquet; aside from that, out of memory",
    ],
)
def test_other_terms_are_not_found(text: str) -> None:
    assert not list(hits_in(Passage("text", 1, text)))


@pytest.mark.parametrize("name", ["set_aside", "BadRow", "rows_at_place", "PICKED", "take_over", "said", "path.plain"])
def test_names_are_split(name: str) -> None:
    assert list(hits_in(Passage("name", 1, name, name=True)))
    assert not list(hits_in(Passage("name", 1, "replacement_pickle", name=True)))


if __name__ == "__main__":
    found = all_hits()
    print(*found, sep="\n")
    for folder, count in sorted(folder_counts(found).items()):
        print(f"{count:5} {folder}")
    sys.exit(bool(found))
