"""The records of a report: every value that the page, the text and the JSON show, without a figure.

Values are None where nothing was recorded. The values come from manifests, facts and tables of complete artifacts;
what is drawn from a sample names its size.
"""

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
class Summary:
    """The selection in numbers. read, kept, rejected: rows of the dataset. pool: rows that could be selected.

    seconds: of all stages. tokens: target tokens of the pool and of the subset.
    """

    run: str
    read: int
    kept: int
    rejected: int
    held_out: int
    pool: int
    selected: int | None
    pool_tokens: int | None
    selected_tokens: int | None
    method: str | None
    budget: int | None
    unit: str | None
    seconds: float

    @property
    def share(self) -> float | None:
        """Selected rows over rows of the pool."""
        return self.selected / self.pool if self.selected is not None and self.pool else None

    @property
    def token_share(self) -> float | None:
        """Target tokens of the subset over those of the pool: the work of one epoch."""
        return (
            self.selected_tokens / self.pool_tokens if self.selected_tokens is not None and self.pool_tokens else None
        )


@dataclass(frozen=True)
class RejectedExample:
    """A rejected row. detail: what the reason leaves open."""

    file: str
    line: int | None
    source: str | None
    detail: str | None


@dataclass(frozen=True)
class Rejection:
    """Rows rejected for one reason, and the first examples."""

    reason: str
    rows: int
    examples: tuple[RejectedExample, ...]


@dataclass(frozen=True)
class RowAccount:
    """The account of all rows: read = kept + rejected. statuses: kept rows by status. unread_columns: rows with text
    in a column that no format reads. contaminated: rejected rows by evaluation file."""

    read: int
    kept: int
    rejections: tuple[Rejection, ...]
    statuses: dict[str, int]
    held_out: dict[str, int]
    unread_columns: dict[str, int]
    contaminated: dict[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class SourceCounts:
    """Rows and target tokens of one source in the pool and in the subset."""

    source: str
    pool: int
    selected: int
    pool_tokens: int
    selected_tokens: int


@dataclass(frozen=True)
class Lengths:
    """Histogram of target tokens of a row. edges: one more than the counts; the last bin includes its upper edge."""

    edges: tuple[float, ...]
    pool: tuple[int, ...]
    selected: tuple[int, ...]


@dataclass(frozen=True)
class Proxy:
    """Training of the proxy. Losses are per target token. every: of the recorded steps every n-th is listed.

    warning: why the trajectories may carry no information; None where the proxy learned.
    """

    steps: tuple[int, ...]
    training_loss: tuple[float, ...]
    learning_rate: tuple[float, ...]
    every: int
    held_out_steps: tuple[int, ...]
    held_out_loss: tuple[float, ...]
    warning: str | None


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


@dataclass(frozen=True)
class MethodOverlap:
    """The subset of another method with the same budget, seed and constraints. overlap: shared rows over the rows of
    the smaller subset. by_chance: that of random subsets of these sizes."""

    method: str
    summary: str
    rows: int
    shared: int
    overlap: float
    by_chance: float | None


@dataclass(frozen=True)
class SeedOverlap:
    """Overlap between the subsets of one method with several values of select.seed, over all pairs."""

    method: str
    seeds: int
    mean_overlap: float
    lowest_overlap: float
    by_chance: float


@dataclass(frozen=True)
class Methods:
    """Overlaps with other methods, and between seeds of the method; stability is None for a method without a seed."""

    overlaps: tuple[MethodOverlap, ...]
    stability: SeedOverlap | None


@dataclass(frozen=True)
class StageRecord:
    """Provenance of one artifact. seeds: of its identity, by key."""

    kind: str
    fingerprint: str
    uri: str
    rows: int
    seconds: float | None
    seeds: dict[str, int]
    libraries: dict[str, str]
    provenance: dict[str, str | None]


@dataclass(frozen=True)
class Report:
    """Everything that a report shows of one job or subset."""

    summary: Summary
    account: RowAccount
    sources: tuple[SourceCounts, ...]
    lengths: Lengths | None
    proxy: Proxy | None
    clusters: Clusters | None
    maps: Maps | None
    suspicions: tuple[Suspicion, ...]
    methods: Methods | None
    stages: tuple[StageRecord, ...]
