"""Facts: what a stage found out about its output, as one frozen record a kind.

Later stages, views and the catalog read these instead of untyped dictionaries. Counts obey read = kept + rejected.
"""

from dataclasses import dataclass, field

from s2l_ray.core.training.records import CheckpointRecord


@dataclass(frozen=True)
class Counts:
    """Rows of an artifact: read = kept + the sum of `rejected`, which counts rows by reason."""

    read: int = 0
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetFacts:
    """statuses: rows by status; `ok` of them can be selected. longest: tokens of the longest row with a target, which
    is in shard `longest_shard`.

    vocab_size: largest id of the tokenizer + 1. truncated: examples cut at `data.max_length`. Row numbers have 0 for
    what counts token ids. chats: for each source with chats, whether a chat is one example (whole) or each answer is
    (per_answer). pairs_begin_with_bos: whether a pair begins with the tokenizer's beginning-of-text token; a
    chat has the one that its template writes, if any.
    contaminated: rejected rows by the file of the evaluation set that they repeat.
    unread_columns: rows with text in a column that no format reads. reasoning_not_learned: chats whose template leaves
    out reasoning. held_out: held-out examples by source, which no other count includes.
    """

    statuses: dict[str, int]
    by_source: dict[str, int]
    tokens: int
    target_tokens: int
    truncated: int
    longest: int
    shards: int
    vocab_size: int
    chats: dict[str, str] = field(default_factory=dict)
    pairs_begin_with_bos: bool = False
    unread_columns: dict[str, int] = field(default_factory=dict)
    reasoning_not_learned: int = 0
    longest_shard: int = 0
    held_out: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    contaminated: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> int:
        return self.statuses.get("ok", 0)

    @property
    def sizes(self) -> dict[str, int]:
        """Size of the pool by the unit of a budget; tokens are those of all rows, also without a target token."""
        return {"rows": self.ok, "target_tokens": self.target_tokens, "tokens": self.tokens}


@dataclass(frozen=True)
class EmbeddingsFacts:
    """ok_by_source: embedded rows. truncated: rows whose text has more tokens than `embed.max_length`."""

    dimensions: int
    ok_by_source: dict[str, int]
    truncated: int


@dataclass(frozen=True)
class CheckpointsFacts:
    """Checkpoints in order of their steps, and the loss at both ends of the training; None for imported ones."""

    checkpoints: tuple[CheckpointRecord, ...]
    training_loss_first: float | None = None
    training_loss_last: float | None = None
    held_out_loss_first: float | None = None
    held_out_loss_last: float | None = None

    @property
    def steps(self) -> list[int]:
        """Optimizer steps of the checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self.checkpoints]

    @property
    def epoch_ends(self) -> list[int] | None:
        """Steps of the checkpoints that end an epoch; None for checkpoints that were trained elsewhere."""
        epochs = {one.step: one.epoch for one in self.checkpoints if one.epoch is not None}
        if len(epochs) < len(self.checkpoints):
            return None
        return [step for step, epoch in epochs.items() if epoch > 0 and float(epoch).is_integer()]


@dataclass(frozen=True)
class SkippedUnit:
    """A unit of scoring that failed in every attempt and was allowed to."""

    path: str
    error: str


@dataclass(frozen=True)
class TrajectoriesFacts:
    """steps: optimizer steps of the columns. ok_by_source: rows with status ok.

    attention: units by the attention that scored them.
    numerics: measured error of a loss (see core/scoring/numerical_error.py), or the reason why it is unknown.
    unused_rows: rows of imported losses that belong to no row of the dataset. reused: units that other trajectories
    below the root hold too, and that were copied, by their fingerprint.
    """

    steps: list[int]
    statistics: list[str]
    ok_by_source: dict[str, int]
    attention: dict[str, int] = field(default_factory=dict)
    numerics: dict[str, float | int | str | None] = field(default_factory=dict)
    skipped: tuple[SkippedUnit, ...] = ()
    skipped_steps: list[int] = field(default_factory=list)
    unused_rows: int = 0
    reused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ClustersFacts:
    """Sizes of the clusters in each group (source, or the whole pool) in order of their ids.

    steps: optimizer steps of the checkpoints that formed the trajectories; none where embeddings were clustered.
    """

    clusters: int
    empty_clusters: int
    inertia: float
    group_by: str
    cluster_sizes: dict[str, list[int]]
    fit_seconds: float
    steps: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class SubsetFacts:
    """budget, selected: in `unit`, which is rows, target_tokens or tokens.

    pool: rows that were read. rows_ok: rows of the dataset with status ok. notes: counts of the method, and
    `missing_values`: rows that it could not select. kept, dropped: rows named by select.keep and select.drop.
    """

    method: str
    budget: int
    pool: int
    rows_ok: int
    by_source: dict[str, int]
    notes: dict[str, int] = field(default_factory=dict)
    unit: str = "rows"
    selected: int = 0
    kept: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class TargetFacts:
    """The model and its training. rows: subset, pool or none. train_rows: trained on, as often as the steps allow.

    tokens: of all batches, from which the compute follows. Losses are None for a model that was not trained, and the
    held-out loss, per target token, for a dataset without held-out rows.
    """

    checkpoint: CheckpointRecord
    rows: str
    train_rows: int
    tokens: int
    training_loss_first: float | None = None
    training_loss_last: float | None = None
    held_out_loss: float | None = None


@dataclass(frozen=True)
class TaskScore:
    """Score of one task, in percent. score: mean of the task's first metric over its questions, or that of all answers.

    error: standard error of that mean; None for a metric of all answers, and for one question. no_answer: share of
    outputs without an extractable answer, from 0 to 1. output_tokens: their mean length. metrics: further ones.
    """

    questions: int
    score: float
    error: float | None
    no_answer: float
    output_tokens: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationFacts:
    """Held-out losses and task scores of a target model.

    loss_by_source: mean over held-out rows of the mean loss of a row's target tokens, in nats; rows_by_source: those
    rows. macro_loss: mean of loss_by_source. micro_loss: mean over rows. tasks: by name. engine: that generated.
    """

    loss_by_source: dict[str, float]
    rows_by_source: dict[str, int]
    macro_loss: float | None
    micro_loss: float | None
    tasks: dict[str, TaskScore] = field(default_factory=dict)
    engine: str | None = None


Facts = (
    DatasetFacts
    | EmbeddingsFacts
    | CheckpointsFacts
    | TrajectoriesFacts
    | ClustersFacts
    | SubsetFacts
    | TargetFacts
    | EvaluationFacts
)

FACTS: dict[str, type[Facts]] = {
    "dataset": DatasetFacts,
    "embeddings": EmbeddingsFacts,
    "task": DatasetFacts,
    "target_dataset": DatasetFacts,
    "checkpoints": CheckpointsFacts,
    "trajectories": TrajectoriesFacts,
    "clusters": ClustersFacts,
    "subset": SubsetFacts,
    "target": TargetFacts,
    "evaluation": EvaluationFacts,
}
