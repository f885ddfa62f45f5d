"""Records of the rows of a job: their account, sources and lengths, the proxy, and the provenance of artifacts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """The selection in numbers. read, kept, rejected: rows of the dataset. pool: rows that could be selected.

    seconds, money: of all stages; money needs `prices`. tokens: target tokens of the pool and of the subset.
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
    seconds: float | None
    money: float | None

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
