"""Tokenised rows in flat arrays, and batches of them. Imports torch on use only.

The logits at position p - 1 predict the target at position p, so position 0 is never a target.

Shapes: N rows, X tokens of all rows, S spans of all rows, L tokens of one row, B rows of a batch, M rows taken.
"""

from __future__ import annotations

import mmap
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from s2l_ray.core.arrays import Bool, Int32, Int64

if TYPE_CHECKING:
    import torch

# Label of a position that is not a target: the default `ignore_index` of torch's cross entropy.
IGNORE = -100
# Padding is masked and to the right of every target, so any id in the vocabulary works.
PAD = 0


@dataclass(frozen=True)
class TokenRows:
    """N tokenised rows in flat arrays.

    ids_X: token ids, row after row. starts_N1: start of each row in ids_X; the last entry is X.
    spans_S2: (start, end) of each target span relative to its row, end exclusive, sorted and disjoint.
    span_starts_N1: start of each row's spans in spans_S2; the last entry is S.
    Raises ValueError if the arrays are inconsistent.
    """

    ids_X: Int32
    starts_N1: Int64
    spans_S2: Int32
    span_starts_N1: Int64

    def __post_init__(self) -> None:
        if len(self.starts_N1) != len(self.span_starts_N1):
            raise ValueError(f"{len(self.starts_N1) - 1} rows of tokens but {len(self.span_starts_N1) - 1} of spans")
        _check_starts(self.starts_N1, len(self.ids_X), "tokens")
        _check_starts(self.span_starts_N1, len(self.spans_S2), "spans")
        starts_S, ends_S = self.spans_S2[:, 0], self.spans_S2[:, 1]
        rows_S = self._span_rows_S
        invalid_S = (starts_S < 0) | (starts_S >= ends_S) | (ends_S > self.lengths_N[rows_S])
        invalid_S[1:] |= (rows_S[1:] == rows_S[:-1]) & (starts_S[1:] < ends_S[:-1])
        if invalid_S.any():
            span = int(invalid_S.argmax())
            raise ValueError(
                f"row {rows_S[span]}: target span {self.spans_S2[span].tolist()} is empty, overlaps the one before, "
                f"or leaves the row of {self.lengths_N[rows_S[span]]} tokens"
            )

    @classmethod
    def from_rows(cls, ids: Iterable[Sequence[int]], spans: Iterable[Sequence[tuple[int, int]]]) -> TokenRows:
        """Build rows from a list of ids and a list of (start, end) spans per row."""
        ids, spans = list(ids), list(spans)
        return cls(
            ids_X=np.fromiter((token for row in ids for token in row), np.int32),
            starts_N1=_starts([len(row) for row in ids]),
            spans_S2=np.array([span for row in spans for span in row], np.int32).reshape(-1, 2),
            span_starts_N1=_starts([len(row) for row in spans]),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[TokenRows]) -> TokenRows:
        """The rows of all parts, in order."""
        return cls(
            np.concatenate([part.ids_X for part in parts]),
            _starts(np.concatenate([part.lengths_N for part in parts])),
            np.concatenate([part.spans_S2 for part in parts]),
            _starts(np.concatenate([np.diff(part.span_starts_N1) for part in parts])),
        )

    @classmethod
    def on_disk(cls, parts: Iterable[TokenRows]) -> TokenRows:
        """The rows of all parts, in order, with ids_X in an unnamed temporary file that ends with this process.

        Only one part's ids are in memory at a time. Others are read from the file as rows are taken, through the page
        cache, which the system can reclaim.
        """
        lengths, spans, span_counts = [np.empty(0, np.int64)], [np.empty((0, 2), np.int32)], [np.empty(0, np.int64)]
        with tempfile.TemporaryFile() as file:
            for part in parts:
                file.write(part.ids_X.astype(np.int32, copy=False).tobytes())
                lengths.append(part.lengths_N)
                spans.append(part.spans_S2)
                span_counts.append(np.diff(part.span_starts_N1))
            file.flush()
            ids_X = _mapped_ids(file.fileno()) if file.tell() else np.empty(0, np.int32)
        starts_N1, span_starts_N1 = _starts(np.concatenate(lengths)), _starts(np.concatenate(span_counts))
        return cls(ids_X, starts_N1, np.concatenate(spans), span_starts_N1)

    def __len__(self) -> int:
        return len(self.starts_N1) - 1

    @cached_property
    def lengths_N(self) -> Int64:
        return np.diff(self.starts_N1)

    @cached_property
    def target_tokens_N(self) -> Int64:
        """Targets of each row that are predicted, that is excluding position 0."""
        widths_S = np.maximum(self.spans_S2[:, 1], 1) - np.maximum(self.spans_S2[:, 0], 1)
        return np.diff(_starts(widths_S)[self.span_starts_N1])

    @cached_property
    def target_mask_X(self) -> Bool:
        """Whether each token of ids_X is a target; target_tokens_N of them are in each row."""
        steps = np.zeros(len(self.ids_X) + 1, np.int32)
        offsets_S = self.starts_N1[self._span_rows_S]
        np.add.at(steps, offsets_S + self.spans_S2[:, 0], 1)
        np.add.at(steps, offsets_S + self.spans_S2[:, 1], -1)
        mask_X = np.cumsum(steps[:-1]) > 0
        mask_X[self.starts_N1[:-1][self.lengths_N > 0]] = False
        return mask_X

    def take(self, index_M: ArrayLike) -> TokenRows:
        """The rows of index_M, in that order."""
        index_M = np.asarray(index_M, np.int64)
        positions_X, starts_M1 = _gather(self.starts_N1, index_M)
        positions_S, span_starts_M1 = _gather(self.span_starts_N1, index_M)
        return TokenRows(self.ids_X[positions_X], starts_M1, self.spans_S2[positions_S], span_starts_M1)

    @cached_property
    def _span_rows_S(self) -> Int64:
        return np.repeat(np.arange(len(self)), np.diff(self.span_starts_N1))


@dataclass(frozen=True)
class Batch:
    """Tensors of B rows padded on the right, int64.

    labels_BL is aligned with input_ids_BL (the loss does the shift) and IGNORE at positions that are not targets.
    """

    input_ids_BL: torch.Tensor
    attention_mask_BL: torch.Tensor
    labels_BL: torch.Tensor


def plan_batches(lengths_N: ArrayLike, tokens_per_batch: int, cut_after: int = sys.maxsize) -> list[Int64]:
    """Batches of row indices in ascending length such that rows * longest row <= tokens_per_batch.

    A longer row is a batch of its own. No batch has both rows of up to `cut_after` tokens and longer ones. The plan
    depends on the arguments only.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch is {tokens_per_batch}; it must be at least 1")
    lengths_N = np.asarray(lengths_N, np.int64)
    order_N = np.argsort(lengths_N, kind="stable")
    cuts, first = [], 0
    for position, length in enumerate(lengths_N[order_N].tolist()):
        crosses = length > cut_after >= lengths_N[order_N[first]]
        if position > first and (crosses or (position + 1 - first) * length > tokens_per_batch):
            cuts.append(position)
            first = position
    return np.split(order_N, cuts) if len(order_N) else []


def collate(rows: TokenRows, index_B: ArrayLike) -> Batch:
    """The rows of index_B as one padded batch."""
    import torch

    taken = rows.take(index_B)
    lengths_B = taken.lengths_N
    mask_BL = np.arange(lengths_B.max(initial=0)) < lengths_B[:, None]
    input_ids_BL = np.full(mask_BL.shape, PAD, np.int64)
    input_ids_BL[mask_BL] = taken.ids_X
    labels_BL = np.full(mask_BL.shape, IGNORE, np.int64)
    labels_BL[mask_BL] = np.where(taken.target_mask_X, taken.ids_X, IGNORE)
    return Batch(*map(torch.from_numpy, (input_ids_BL, mask_BL.astype(np.int64), labels_BL)))


def _mapped_ids(file: int) -> Int32:
    """All ids of a file of int32, mapped for reads of single rows in random order."""
    mapped = mmap.mmap(file, 0, prot=mmap.PROT_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, np.int32)


def _starts(lengths: ArrayLike) -> Int64:
    """Start of each of the consecutive pieces, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))])


def _gather(starts_N1: Int64, index_M: Int64) -> tuple[Int64, Int64]:
    """Positions of the pieces index_M in a flat array split at starts_N1, and their starts once gathered."""
    lengths_M = starts_N1[index_M + 1] - starts_N1[index_M]
    new_starts_M1 = _starts(lengths_M)
    shifts_M = starts_N1[index_M] - new_starts_M1[:-1]
    return np.arange(new_starts_M1[-1]) + np.repeat(shifts_M, lengths_M), new_starts_M1


def _check_starts(starts_N1: Int64, total: int, unit: str) -> None:
    if len(starts_N1) == 0 or starts_N1[0] != 0 or starts_N1[-1] != total or (np.diff(starts_N1) < 0).any():
        raise ValueError(f"row starts of {total} {unit} must increase from 0 to {total}")
