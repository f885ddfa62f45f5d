"""Rows of the pool that also occur in evaluation sets: equal prompts, or a shared n-gram of words.

Prompts are equal if they differ only in case, spaces and sentence punctuation; operators such as - and / count. N-grams
are of words: letters and digits. Both are compared by 64-bit hashes in sorted arrays, 12 bytes for each distinct one.
Shapes: W words of a text, X hashes of all evaluation rows, K distinct hashes.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from s2l_ray.core.arrays import Int32, UInt64

NGRAM_WORDS = 13
# a word, or a symbol that is not sentence punctuation
_TOKEN = re.compile(r"[^\W_]+|[^\w\s.,;:!?'\"`\u2018\u2019\u201c\u201d]")
# multiplier of the polynomial that combines the hashes of words; odd, so that no bit is lost
_MULTIPLIER = 0x9E3779B97F4A7C15
_POWERS = np.array([pow(_MULTIPLIER, power, 1 << 64) for power in range(NGRAM_WORDS)], np.uint64)


@dataclass(frozen=True)
class EvaluationRow:
    """A question of an evaluation set, and where it comes from."""

    file: str
    line: int
    question: str


@dataclass(frozen=True)
class Overlap:
    """The evaluation row that a row of the pool repeats. words: the shared n-gram; empty for an equal prompt."""

    file: str
    line: int
    words: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: " + (f"shares {self.words!r}" if self.words else "equal prompt")


@dataclass(frozen=True)
class _HashTable:
    """Sorted distinct hashes, and for each the first evaluation row that has it."""

    hash_K: UInt64
    row_K: Int32

    @classmethod
    def of(cls, hashes: Sequence[UInt64]) -> "_HashTable":
        """The table of the hashes of each evaluation row."""
        hash_X = np.concatenate([np.empty(0, np.uint64), *hashes])
        row_X = np.repeat(np.arange(len(hashes), dtype=np.int32), [len(one) for one in hashes])
        hash_K, first_K = np.unique(hash_X, return_index=True)
        return cls(hash_K, row_X[first_K])

    def find(self, hash_W: UInt64) -> tuple[int, int] | None:
        """(position in hash_W, evaluation row) of the first hash that the table holds."""
        if not len(self.hash_K) or not len(hash_W):
            return None
        at_W = np.minimum(np.searchsorted(self.hash_K, hash_W), len(self.hash_K) - 1)
        found = np.flatnonzero(self.hash_K[at_W] == hash_W)
        return (int(found[0]), int(self.row_K[at_W[found[0]]])) if len(found) else None


class EvaluationIndex:
    """The normalised questions of evaluation sets and their n-grams."""

    def __init__(self, rows: Iterable[EvaluationRow]) -> None:
        self._origins: list[tuple[str, int]] = []
        prompts, ngrams = [], []
        for row in rows:
            tokens = normalised_tokens(row.question)
            self._origins.append((row.file, row.line))
            prompts.append(_prompt_hash(tokens))
            ngrams.append(_ngram_hashes(_words(tokens)))
        self._prompts, self._ngrams = _HashTable.of(prompts), _HashTable.of(ngrams)

    def __len__(self) -> int:
        return len(self._origins)

    def find(self, prompts: Sequence[str], response: str = "") -> Overlap | None:
        """A question that equals one of the prompts or, if there is none, shares an n-gram with any of the texts."""
        tokens = [normalised_tokens(text) for text in [*prompts, response]]
        for prompt in tokens[: len(prompts)]:
            if found := self._prompts.find(_prompt_hash(prompt)):
                return Overlap(*self._origins[found[1]])
        for words in map(_words, tokens):
            if found := self._ngrams.find(_ngram_hashes(words)):
                first, row = found
                return Overlap(*self._origins[row], " ".join(words[first : first + NGRAM_WORDS]))
        return None


def normalised_tokens(text: str) -> list[str]:
    """Words in lower case and symbols, in order, without sentence punctuation."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def _words(tokens: Sequence[str]) -> list[str]:
    return [token for token in tokens if token.isalnum()]


def _prompt_hash(tokens: Sequence[str]) -> UInt64:
    """One hash of all tokens; none where there are no tokens."""
    return np.array([xxhash.xxh3_64_intdigest(" ".join(tokens).encode())] if tokens else [], np.uint64)


def _ngram_hashes(words: Sequence[str]) -> UInt64:
    """The hash of each n-gram, in order: a polynomial in the hashes of its words, modulo 2^64."""
    if len(words) < NGRAM_WORDS:
        return np.empty(0, np.uint64)
    word_W = np.array([xxhash.xxh3_64_intdigest(word.encode()) for word in words], np.uint64)
    hashes: UInt64 = np.lib.stride_tricks.sliding_window_view(word_W, NGRAM_WORDS) @ _POWERS
    return hashes
