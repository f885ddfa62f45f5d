"""Records of loss trajectories: clusters, maps and suspicious rows, with the rows that are shown of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One example. prompt, response: clipped, the prompt without the Alpaca template; None without text. file, line: of
    its raw row. value: by which it is listed.

    selected: whether it is in the subset. flags: names of FLAGS.
    """

    example_id: str
    source: str
    file: str | None
    line: int | None
    cluster: int | None
    selected: bool
    value: float
    flags: tuple[str, ...]
    prompt: str | None
    response: str | None


@dataclass(frozen=True)
class Cluster:
    """One cluster. source: of all its rows where clusters were fitted inside sources; else None.

    title: distinctive terms of its rows. low, median, high: the 10 %, 50 % and 90 % quantile of the loss at each step,
    over `sampled` of its rows. typical, atypical: rows nearest to the centroid and farthest from it; their value is the
    distance.
    """

    cluster: int
    source: str | None
    rows: int
    selected: int
    title: tuple[str, ...]
    sampled: int
    low: tuple[float, ...]
    median: tuple[float, ...]
    high: tuple[float, ...]
    typical: tuple[Row, ...]
    atypical: tuple[Row, ...]


@dataclass(frozen=True)
class Clusters:
    """The largest clusters. total: number of clusters that have a row. steps: of the values of a trajectory."""

    total: int
    steps: tuple[int, ...]
    shown: tuple[Cluster, ...]


@dataclass(frozen=True)
class Maps:
    """Two maps of a sample: `mean` against `spread` of the quantity over the trained checkpoints, and `x` against `y`,
    the two largest principal components of the loss trajectories. explained: their share of the variance.

    pool, subset: rows that the shown ones were drawn from.
    """

    quantity: str
    explained: float
    pool: int
    subset: int
    example_id: tuple[str, ...]
    selected: tuple[bool, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Suspicion:
    """One flag: its definition, the rows that have it, and the worst of them first."""

    flag: str
    definition: str
    rows: int
    selected: int
    worst: tuple[Row, ...]
