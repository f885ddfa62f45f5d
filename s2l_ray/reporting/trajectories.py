"""The parts of a report that read loss trajectories: clusters, maps and suspicious rows.

N rows of the pool, M rows of a sample, T checkpoints
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from s2l_ray.artifacts.facts import ClustersFacts, TrajectoriesFacts
from s2l_ray.catalog.pool_columns import lists
from s2l_ray.core.arrays import Float32, Int64
from s2l_ray.core.diagnostics import FLAGS, NEAR_DUPLICATE, near_duplicates
from s2l_ray.core.selection.balancing import rows_by_group
from s2l_ray.reporting.pool import Parts, PoolColumns, take_rows, trained_columns
from s2l_ray.reporting.records.trajectories import Cluster, Clusters, Maps, Suspicion
from s2l_ray.reporting.rows import Flagged, FlaggedRows, shown_rows, titles

CLUSTERS_SHOWN = 40
ROWS_PER_BAND = 200
TYPICAL, ATYPICAL = 3, 2
WORST = 10
POINTS, SELECTED_POINTS = 3000, 1000
QUANTILES = (0.1, 0.5, 0.9)
SEED = 0
DIGITS = 4


def flag_rows(columns: PoolColumns) -> dict[str, FlaggedRows]:
    """The rows of each flag; no flags without trajectories."""
    if columns.trajectories is None or columns.text_N is None:
        return {}
    known = columns.trajectories.known
    found = {
        name: FlaggedRows(flag.definition, flag.flagged(known, columns.source_N), flag.severity(known))
        for name, flag in FLAGS.items()
    }
    similar_N, gap_N = near_duplicates(columns.text_N, known.mean_N)
    return found | {"near_duplicate": FlaggedRows(NEAR_DUPLICATE, similar_N, -gap_N)}


def suspicions(parts: Parts, columns: PoolColumns, flagged: Flagged, *, text: bool) -> tuple[Suspicion, ...]:
    """Every flag with its rows, the worst first."""
    worst = {name: _worst(one) for name, one in flagged.items()}
    values = dict.fromkeys(chain(*worst.values()), 0.0)
    rows = shown_rows(parts, columns, values, flagged, text=text) if values else {}
    return tuple(
        Suspicion(
            name,
            one.definition,
            int(one.mask_N.sum()),
            int((one.mask_N & columns.selected_N).sum()),
            tuple(replace(rows[row], value=_rounded(one.severity_N[row])) for row in worst[name]),
        )
        for name, one in flagged.items()
    )


def _worst(flagged: FlaggedRows) -> list[int]:
    rows = np.flatnonzero(flagged.mask_N)
    ordered = rows[np.argsort(-flagged.severity_N[rows], kind="stable")]
    return [int(row) for row in ordered[:WORST]]


def clusters(parts: Parts, columns: PoolColumns, flagged: Flagged, *, text: bool) -> Clusters | None:
    """The largest clusters; None without clusters."""
    if columns.cluster_N is None or columns.distance_N is None:
        return None
    groups = {cluster: rows for cluster, rows in rows_by_group(columns.cluster_N).items() if cluster >= 0}
    largest = sorted(groups, key=lambda cluster: (-len(groups[cluster]), cluster))[:CLUSTERS_SHOWN]
    rng = np.random.default_rng(SEED)
    sampled = {one: np.sort(rng.permutation(groups[one])[:ROWS_PER_BAND]) for one in largest}
    bands = _bands(parts, columns, list(sampled.values()))
    grouped = parts["clusters"].facts(ClustersFacts).group_by == "source"
    sources = [columns.sources[columns.source_N[groups[one][0]]] if grouped else None for one in largest]
    named = titles(parts, columns, list(sampled.values()), sources) if text else [()] * len(largest)
    near_and_far = {one: _near_and_far(groups[one], columns.distance_N) for one in largest}
    values = {row: _rounded(columns.distance_N[row]) for row in chain(*chain(*near_and_far.values()))}
    rows = shown_rows(parts, columns, values, flagged, text=text)
    shown = []
    for one, source, title, band in zip(largest, sources, named, bands, strict=True):
        near, far = near_and_far[one]
        selected = int(columns.selected_N[groups[one]].sum())
        examples = tuple(tuple(rows[row] for row in part) for part in (near, far))
        shown.append(Cluster(one, source, len(groups[one]), selected, title, len(sampled[one]), *band, *examples))
    steps = parts["trajectories"].facts(TrajectoriesFacts).steps if "trajectories" in parts else []
    return Clusters(len(groups), tuple(steps), tuple(shown))


def _near_and_far(rows: Int64, distance_N: Float32) -> tuple[list[int], list[int]]:
    """The rows nearest to the centroid, and then the farthest others, farthest first."""
    ordered = rows[np.argsort(distance_N[rows], kind="stable")].tolist()
    return ordered[:TYPICAL], ordered[TYPICAL:][-ATYPICAL:][::-1]


Band = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]


def _bands(parts: Parts, columns: PoolColumns, groups: Sequence[Int64]) -> list[Band]:
    """Quantiles of the losses of groups of rows at every checkpoint; empty without trajectories."""
    if "trajectories" not in parts:
        return [((), (), ())] * len(groups)
    index_M = np.sort(np.concatenate([np.empty(0, np.int64), *groups]))
    table = take_rows(parts["trajectories"], columns.start_S, columns.number_N[index_M], ["losses"])
    loss_MT = lists(table["losses"])
    found = []
    for rows in groups:
        low, median, high = np.nanquantile(loss_MT[np.searchsorted(index_M, rows)], QUANTILES, axis=0)
        found.append((_tuple(low), _tuple(median), _tuple(high)))
    return found


def maps(parts: Parts, columns: PoolColumns) -> Maps | None:
    """Both maps of a sample of rows; None without trajectories."""
    known = columns.trajectories
    if known is None:
        return None
    rng = np.random.default_rng(SEED)
    groups = (np.flatnonzero(~columns.selected_N), POINTS), (np.flatnonzero(columns.selected_N), SELECTED_POINTS)
    index_M = np.sort(np.concatenate([rng.permutation(rows)[:most] for rows, most in groups]))
    finite_M = np.isfinite(known.mean_N[index_M])
    index_M = index_M[finite_M]
    names = ["example_id", "losses"]
    table = take_rows(parts["trajectories"], columns.start_S, columns.number_N[index_M], names)
    coordinate_M2 = known.plane.project(lists(table["losses"])[:, trained_columns(parts)])
    return Maps(
        known.quantity,
        _rounded(known.plane.explained),
        len(columns),
        int(columns.selected_N.sum()),
        tuple(table["example_id"].to_pylist()),
        tuple(columns.selected_N[index_M].tolist()),
        _tuple(known.mean_N[index_M]),
        _tuple(known.spread_N[index_M]),
        _tuple(coordinate_M2[:, 0]),
        _tuple(coordinate_M2[:, 1]),
    )


def _tuple(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.round(values.astype(np.float64), DIGITS).tolist())


def _rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0  # no negative zero
