"""The output of `explain`."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from s2l_ray.catalog.comparison.rankings import RowRank
from s2l_ray.catalog.explain import Explanation, GroupCounts
from s2l_ray.terminal import humanize
from s2l_ray.terminal.layout import clipped, facts, indented

TEXT_SHOWN = 600
STYLES = {
    "selected": "bold green",
    "not selected": "bold yellow",
    "not in the pool": "bold red",
    "rejected": "bold red",
}


def explanation_view(rows: Sequence[Explanation]) -> RenderableType:
    return indented(*map(_row, rows))


def _row(row: Explanation) -> RenderableType:
    reason = f": {row.reason}" + (f" ({row.detail})" if row.detail else "") if row.reason else ""
    lengths = f"{row.tokens}, of which {row.target_tokens} are targets" if row.tokens is not None else None
    pairs = {
        "example_id": row.example_id,
        "file": f"{row.file}:{row.line}" if row.file is not None else None,
        "source": _counts(row.source_counts) if row.source_counts else row.source,
        "prompt": clipped(row.prompt, TEXT_SHOWN) if row.prompt else None,
        "response": clipped(row.response, TEXT_SHOWN) if row.response else None,
        "tokens": lengths,
        "loss by step": _losses(row.losses) if row.losses else None,
        "cluster": _counts(row.cluster) if row.cluster else None,
        "distance": f"{row.distance:.4g} to the centroid" if row.distance is not None else None,
        "score": f"{row.score:.4g}" if row.score is not None else None,
        "rank": _rank(row.rank) if row.rank else None,
        "probability": f"{row.probability:.4g}" if row.probability is not None else None,
    }
    return Group(Text.assemble((row.outcome, STYLES.get(row.outcome, "bold red")), reason), facts(pairs))


def _counts(group: GroupCounts) -> str:
    share = humanize.percent(group.selected / group.rows if group.rows else None)
    return f"{group.name}: {group.selected:,} of {group.rows:,} rows selected ({share})"


def _rank(rank: RowRank) -> str:
    budget = f"; a budget of {rank.smallest_budget:,} rows includes it" if rank.smallest_budget else ""
    return f"{rank.rank:,} of {rank.of:,}{budget}"


def _losses(losses: dict[int, float | None]) -> str:
    return " · ".join(f"{step}: {'-' if loss is None else format(loss, '.3f')}" for step, loss in losses.items())
