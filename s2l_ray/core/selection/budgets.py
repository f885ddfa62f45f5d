"""Constraints around a method: rows to keep and to drop, shares and caps of sources, and the budget itself.

They are applied in this order: drop, keep, shares, caps, method. A method receives a pool and an amount to select, and
is independent of the constraints. N rows of the pool, M rows selected.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from s2l_ray.core.arrays import Bool, Int64, Integers
from s2l_ray.core.selection.balancing import amount_of, proportional_quotas, source_rng
from s2l_ray.core.selection.pool import Pool, Selection

# (pool, amount, seed) -> rows of that amount
Method = Callable[[Pool, int, int], Selection]


class InfeasibleBudget(ValueError):
    """A budget that the pool and the constraints cannot meet. feasible: the largest one that they can."""

    def __init__(self, amount: int, reason: str, feasible: int) -> None:
        super().__init__(
            f"select.budget: {amount} is not feasible: {reason}; the largest feasible budget is {feasible}"
        )
        self.feasible = feasible


@dataclass(frozen=True)
class Constraints:
    """amount: rows or tokens to select, kept rows included.

    shares: of the amount, by source; what they leave of 1 is for all other sources together. caps: the most rows of a
    source. keep_N, drop_N: masks over the pool.
    """

    amount: int
    shares: Mapping[str, Fraction] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    keep_N: Bool | None = None
    drop_N: Bool | None = None


@dataclass(frozen=True)
class _Part:
    """Sources with one quota. open_N: rows that the method may select. kept, available: amounts of kept rows, and of
    the rows that it may select at most. name: of a source with a share; empty for all others together."""

    name: str
    share: Fraction
    open_N: Bool
    kept: int
    available: int


def select_within_budget(pool: Pool, constraints: Constraints, method: Method, seed: int) -> Selection:
    """Apply the constraints around a method. A row budget is met exactly; a token budget is never exceeded.

    Raises InfeasibleBudget, or ValueError where the constraints contradict each other.
    """
    check_constraints(pool, constraints)
    keep_N = np.zeros(len(pool), bool) if constraints.keep_N is None else constraints.keep_N
    open_N = ~keep_N if constraints.drop_N is None else ~(keep_N | constraints.drop_N)
    candidates = int(open_N.sum())
    open_N &= pool.usable()
    missing = candidates - int(open_N.sum())
    caps = _caps_left(pool, constraints, keep_N)
    parts = _parts(pool, constraints.shares, caps, keep_N, open_N)
    selected = [_kept(keep_N)]
    for part, quota in zip(parts, _part_quotas(parts, constraints.amount), strict=True):
        try:
            selected.append(_select_part(pool, part, quota - part.kept, caps, method, seed))
        except InfeasibleBudget as error:
            capped = [replace(one, available=error.feasible) if one is part else one for one in parts]
            feasible = _largest_feasible(capped, constraints.amount)
            raise InfeasibleBudget(constraints.amount, "the caps leave too little", feasible) from None
    return _union(selected, {"missing_values": missing} if missing else {})


def check_constraints(pool: Pool, constraints: Constraints) -> None:
    """Raise ValueError for sources that have no row, shares above 1, and rows both kept and dropped."""
    names = {name for name, count in _count_by_source(pool, slice(None)).items() if count}
    for key, sources in (("shares", constraints.shares), ("caps", constraints.caps)):
        if unknown := sorted(set(sources) - names):
            raise ValueError(f"select.{key}: no source {unknown[0]}; the sources are {', '.join(sorted(names))}")
    if sum(constraints.shares.values()) > 1:
        raise ValueError(f"select.shares: the shares sum to {float(sum(constraints.shares.values())):g}, more than 1")
    if constraints.keep_N is not None and constraints.drop_N is not None:
        both = int((constraints.keep_N & constraints.drop_N).sum())
        if both:
            raise ValueError(
                f"select.keep: {both} of its rows are also in select.drop; remove them from one of the two"
            )


def _caps_left(pool: Pool, constraints: Constraints, keep_N: Bool) -> dict[str, int]:
    kept = _count_by_source(pool, np.flatnonzero(keep_N))
    for source, cap in constraints.caps.items():
        if kept[source] > cap:
            raise ValueError(
                f"select.caps: {source} is capped at {cap} rows, but select.keep has {kept[source]} of them; raise the "
                "cap or keep fewer"
            )
    return {source: cap - kept[source] for source, cap in constraints.caps.items()}


def _parts(
    pool: Pool, shares: Mapping[str, Fraction], caps: Mapping[str, int], keep_N: Bool, open_N: Bool
) -> list[_Part]:
    """One part for each source with a share, and one for all others."""
    code_of = {name: code for code, name in enumerate(pool.source_names)}
    others_N = np.isin(pool.source_N, [code_of[name] for name in shares], invert=True) if shares else None
    masks = {name: pool.source_N == code_of[name] for name in sorted(shares)}
    parts = []
    for name, mask_N in [*masks.items(), ("", others_N)]:
        share = shares[name] if name else 1 - sum(shares.values(), Fraction(0))
        own_N = open_N if mask_N is None else open_N & mask_N
        kept = _amount(keep_N if mask_N is None else keep_N & mask_N, pool.weight_N)
        available = _amount(own_N, pool.weight_N)
        if caps and pool.weight_N is None:
            sizes = _count_by_source(pool, np.flatnonzero(own_N))
            available = sum(min(size, caps.get(source, size)) for source, size in sizes.items())
        parts.append(_Part(name, Fraction(share), own_N, kept, available))
    return parts


def _part_quotas(parts: Sequence[_Part], amount: int) -> list[int]:
    """The amount in proportion to the shares, by largest remainder. Raises InfeasibleBudget."""
    quotas = _share_out(parts, amount)
    for part, quota in zip(parts, quotas, strict=True):
        whose = f"source {part.name}" if part.name else "the sources without a share" if len(parts) > 1 else "the pool"
        if quota > part.kept + part.available:
            reason = f"{whose} would give {quota} and has {part.kept + part.available}"
            raise InfeasibleBudget(amount, reason, _largest_feasible(parts, amount))
        if quota < part.kept:
            raise ValueError(f"select.keep: {part.kept} of {whose} are kept, but only {quota} are in the budget")
    return quotas


def _share_out(parts: Sequence[_Part], amount: int) -> list[int]:
    denominator = int(np.lcm.reduce([part.share.denominator for part in parts], dtype=object))
    weights = [int(part.share * denominator) for part in parts]
    scale = max(1, amount)  # quotas may exceed the weights, which sum to the denominator
    return proportional_quotas([weight * scale for weight in weights], amount)


def _largest_feasible(parts: Sequence[_Part], amount: int) -> int:
    """The largest amount below `amount` whose quotas all parts can meet, or 0."""
    bounds = [int((part.kept + part.available + 1) / part.share) for part in parts if part.share]
    for smaller in range(min([amount - 1, *bounds]), 0, -1):
        quotas = _share_out(parts, smaller)
        if all(part.kept <= quota <= part.kept + part.available for part, quota in zip(parts, quotas, strict=True)):
            return smaller
        if any(quota + 1 < part.kept for part, quota in zip(parts, quotas, strict=True)):
            break
    return 0


def _select_part(pool: Pool, part: _Part, amount: int, caps: Mapping[str, int], method: Method, seed: int) -> Selection:
    own_seed = int(source_rng(seed, part.name).integers(2**31)) if part.name else seed
    if part.open_N.all():  # without a copy of the pool
        return _select_capped(pool, amount, caps, method, own_seed)
    index_M = np.flatnonzero(part.open_N)
    selected = _select_capped(pool.take(index_M), amount, caps, method, own_seed)
    return replace(selected, index_M=index_M[selected.index_M])


def _select_capped(
    pool: Pool, amount: int, caps: Mapping[str, int], method: Method, seed: int, before: int = 0
) -> Selection:
    """Run the method; where a source exceeds its cap, select that many of its rows and repeat with the other sources.

    A row that was drawn twice has the product of both probabilities. before: amount selected of capped sources.
    """
    selected = method(pool, amount - before, seed)
    counts = _count_by_source(pool, selected.index_M) if caps else {}
    exceeding = [source for source, cap in caps.items() if counts.get(source, 0) > cap]
    if not exceeding:
        return selected
    fixed = [_at_cap(pool, selected, source, caps[source], method, seed) for source in sorted(exceeding)]
    used = before + sum(amount_of(one.index_M, pool.weight_N) for one in fixed)
    codes = [list(pool.source_names).index(source) for source in exceeding]
    others_M = np.flatnonzero(~np.isin(pool.source_N, codes))
    others = pool.take(others_M)
    most = used + others.amount()
    rest = _select_capped(others, min(amount, most), caps, method, seed, used)  # raises for caps that leave even less
    if amount > most:
        raise InfeasibleBudget(amount, "the caps leave too little", most)
    return _union([*fixed, replace(rest, index_M=others_M[rest.index_M])], {})


def _at_cap(pool: Pool, selected: Selection, source: str, cap: int, method: Method, seed: int) -> Selection:
    """`cap` of the rows that were selected of a source, by the method itself."""
    code = list(pool.source_names).index(source)
    at_M = np.flatnonzero(pool.source_N[selected.index_M] == code)
    own_M = selected.index_M[at_M]
    own_seed = int(source_rng(seed, f"cap {source}").integers(2**31))  # independent of the draw before
    again = method(replace(pool.take(own_M), weight_N=None), cap, own_seed)
    kept_M = at_M[again.index_M]
    probability_M = selected.probability_M[kept_M] * again.probability_M
    return Selection(selected.index_M[kept_M], selected.score_M[kept_M], probability_M, again.notes)


def _kept(keep_N: Bool) -> Selection:
    index_M = np.flatnonzero(keep_N)
    return Selection(index_M, np.full(len(index_M), np.nan), np.ones(len(index_M)))


def _union(selected: Sequence[Selection], notes: Mapping[str, int]) -> Selection:
    """All rows, ascending; notes of the parts are summed."""
    index_M = np.concatenate([one.index_M for one in selected])
    order_M = np.argsort(index_M)
    score_M = np.concatenate([one.score_M for one in selected])[order_M]
    probability_M = np.concatenate([one.probability_M for one in selected])[order_M]
    total = sum((Counter(dict(one.notes)) for one in selected), Counter(dict(notes)))
    return Selection(index_M[order_M], score_M, probability_M, dict(total))


def _amount(mask_N: Bool, weight_N: Integers | None) -> int:
    return int(mask_N.sum()) if weight_N is None else int(weight_N[mask_N].sum(dtype=np.int64))


def _count_by_source(pool: Pool, index_M: Int64 | slice) -> Counter[str]:
    """Rows by source, of some rows of the pool."""
    count_S = np.bincount(pool.source_N[index_M], minlength=len(pool.source_names)).tolist()
    return Counter(dict(zip(pool.source_names, count_S, strict=True)))
