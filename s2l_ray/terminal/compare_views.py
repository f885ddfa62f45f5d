"""The output of `compare`: subsets, pairs of them, rank agreement, and agreement of clusterings."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.catalog.compare import Comparison
from s2l_ray.catalog.comparison.subsets import SubsetPair
from s2l_ray.core.agreement import SHARES
from s2l_ray.terminal import humanize
from s2l_ray.terminal.layout import indented, table

# overlaps by source are shown for at most this many pairs of subsets
PAIRS_BY_SOURCE = 3


def comparison_view(comparison: Comparison) -> RenderableType:
    parts: list[RenderableType] = []
    if comparison.subsets:
        parts += [_subsets(comparison), _pairs(comparison)]
    if 0 < len(comparison.subset_pairs) <= PAIRS_BY_SOURCE:
        parts += [_by_source(pair) for pair in comparison.subset_pairs]
    if comparison.rankings:
        parts.append(_rankings(comparison))
    if comparison.clusterings:
        parts.append(_clusterings(comparison))
    if comparison.stability:
        parts.append(_stability(comparison))
    return indented(*parts)


def _subsets(comparison: Comparison) -> Table:
    numbers = ("rows", "of pool", "target tokens", "mean length", "sources")
    shown = table("subset", "method", *numbers, right=numbers)
    for one in comparison.subsets:
        of_pool = humanize.percent(one.rows / one.pool if one.pool else None)
        tokens, sources = humanize.count(one.target_tokens), humanize.count(len(one.by_source))
        length = "-" if one.mean_length is None else f"{one.mean_length:.1f}"
        shown.add_row(one.name, one.method, humanize.count(one.rows), of_pool, tokens, length, sources)
    return shown


def _pairs(comparison: Comparison) -> Table:
    shown = table(
        "first",
        "second",
        "shared rows",
        "overlap",
        "by chance",
        "Jaccard",
        right=("shared rows", "overlap", "by chance"),
    )
    for pair in comparison.subset_pairs:
        shown.add_row(
            pair.first,
            pair.second,
            humanize.count(pair.rows.shared),
            humanize.percent(pair.rows.overlap),
            humanize.percent(pair.by_chance),
            humanize.ratio(pair.rows.jaccard),
        )
    return shown


def _by_source(pair: SubsetPair) -> Table:
    numbers = (pair.first, pair.second, "shared rows", "overlap")
    shown = table("source", *numbers, right=numbers)
    for name, rows in pair.by_source.items():
        counts = (humanize.count(number) for number in (rows.first, rows.second, rows.shared))
        shown.add_row(Text(name), *counts, humanize.percent(rows.overlap))
    return shown


def _rankings(comparison: Comparison) -> Table:
    shares = [f"first {share} %" for share in SHARES]
    numbers = ("rows", "Spearman", "Kendall", *shares)
    shown = table("first", "second", "ranked by", *numbers, right=numbers)
    for pair in comparison.rankings:
        found = pair.agreement
        overlaps = (humanize.percent(value) for value in found.overlaps.values())
        correlations = humanize.ratio(found.spearman), humanize.ratio(found.kendall)
        shown.add_row(pair.first, pair.second, pair.method, humanize.count(found.rows), *correlations, *overlaps)
    return shown


def _clusterings(comparison: Comparison) -> Table:
    shown = table("first", "second", "rows", "adjusted Rand index", right=("rows", "adjusted Rand index"))
    for pair in comparison.clusterings:
        shown.add_row(pair.first, pair.second, humanize.count(pair.rows), humanize.ratio(pair.adjusted_rand))
    return shown


def _stability(comparison: Comparison) -> Table:
    numbers = ("seeds", "rows", "mean overlap", "lowest", "by chance", "seconds")
    shown = table("selection", "method", *numbers, right=numbers)
    for one in comparison.stability:
        overlaps = (humanize.percent(value) for value in (one.mean_overlap, one.lowest_overlap, one.by_chance))
        shown.add_row(one.name, one.method, str(one.seeds), humanize.count(one.rows), *overlaps, f"{one.seconds:.2f}")
    return shown
