"""Table schemas, status values and file names of all kinds of artifacts."""

import numpy as np
import pyarrow as pa

from s2l_ray.core.arrays import Int64
from s2l_ray.core.data.token_rows import TokenRows

# Kinds of artifacts, in the order in which they are built.
KINDS = (
    *("dataset", "embeddings", "task", "checkpoints", "trajectories", "clusters", "subset"),
    *("target_dataset", "target", "evaluation"),
)
# The kinds whose shards are tokens and text: the pool, the rows of a target task, the pool in the target's tokens.
KINDS_WITH_TEXT = ("dataset", "task", "target_dataset")
RESUME_FOLDER = "resume"
CHECKPOINT_RECORD = "checkpoint.json"
TRAINING_TABLE, HELD_OUT_TABLE = "training.parquet", "held_out.parquet"

# Values of the column `status`: an example is scored and selected only if it is `ok`.
OK = "ok"
NO_TARGET_TOKENS = "no_target_tokens"
NON_FINITE = "non_finite"
NOT_SCORED = "not_scored"

# A shard of the dataset is two files with the same rows; training, scoring and selection read tokens only.
TOKENS_FOLDER, TEXT_FOLDER = "tokens/", "text/"
# Before both, in the paths of shards of held-out rows, which are never trained on and never selected.
HELD_OUT_FOLDER = "held_out/"
TOKENS = pa.schema(
    [
        ("example_id", pa.string()),
        ("source", pa.string()),
        ("status", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("target_spans", pa.list_(pa.int32())),
    ]
)
# answer: position of the only learned answer among those of the row; null for an example that learns all
TEXT = pa.schema(
    [
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("answer", pa.int32()),
        ("raw", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
    ]
)
DATASET = pa.schema([*TOKENS, *TEXT])

REJECTED = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("source", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("example_id", pa.string()),
    ]
)

CLUSTERS = pa.schema([("example_id", pa.string()), ("cluster", pa.int32()), ("distance", pa.float32())])

SUBSET = pa.schema(
    [
        ("example_id", pa.string()),
        ("source", pa.string()),
        ("cluster", pa.int32()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("score", pa.float32()),
        ("probability", pa.float32()),
    ]
)

# An evaluation. Losses: one row a held-out row, in order of the shards; null without a target token.
LOSSES_TABLE, ANSWERS_FOLDER = "losses.parquet", "answers/"
HELD_OUT_LOSSES = pa.schema(
    [("example_id", pa.string()), ("source", pa.string()), ("tokens", pa.int32()), ("loss", pa.float64())]
)
# Answers: one row a question and sample, in order of the questions. output: to `prompt`, the last one that was asked;
# null if the prompt is too long. earlier_output: to a prompt for a program that yielded no answer. program: whose
# output is `extracted`. error: of a program. verdict: the task's first metric, in percent (0 or 100 for exact matches).
ANSWERS = pa.schema(
    [
        ("question", pa.int32()),
        ("sample", pa.int32()),
        ("prompt", pa.string()),
        ("output", pa.string()),
        ("earlier_output", pa.string()),
        ("program", pa.string()),
        ("error", pa.string()),
        ("extracted", pa.string()),
        ("reference", pa.string()),
        ("verdict", pa.float64()),
        ("output_tokens", pa.int32()),
    ]
)


def embeddings_schema(dimensions: int) -> pa.Schema:
    """Schema of a shard of embeddings; null for rows whose status is not `ok`."""
    vector = pa.list_(pa.float32(), dimensions)
    names = ("example_id", "source", "status")
    return pa.schema([*((name, pa.string()) for name in names), ("embedding", vector)])


def losses_schema(statistics: tuple[str, ...]) -> pa.Schema:
    """Schema of a scoring unit: the losses of one shard at one checkpoint."""
    columns = [("example_id", pa.string()), ("nll_sum", pa.float64()), ("target_tokens", pa.int32())]
    return pa.schema([*columns, *((name, pa.float32()) for name in statistics)])


def trajectories_schema(checkpoints: int, statistics: tuple[str, ...]) -> pa.Schema:
    """Schema of a shard of trajectories: lists have one value per checkpoint, in order of the steps."""
    series = pa.list_(pa.float32(), checkpoints)
    return pa.schema(
        [
            ("example_id", pa.string()),
            ("source", pa.string()),
            ("target_tokens", pa.int32()),
            ("status", pa.string()),
            ("losses", series),
            *((name, series) for name in statistics),
        ]
    )


def shard_path(shard: int) -> str:
    """Path of a shard in every kind of artifact but the dataset."""
    return f"shard-{shard:05d}.parquet"


def tokens_path(shard: int) -> str:
    return TOKENS_FOLDER + shard_path(shard)


def text_path(shard: int) -> str:
    return TEXT_FOLDER + shard_path(shard)


def shard_number(path: str) -> int:
    """The number in the path of a shard."""
    return int(path.rpartition("shard-")[2].removesuffix(".parquet"))


def step_name(step: int) -> str:
    return f"step-{step:06d}"


def losses_path(step: int, shard: int) -> str:
    """Path of a scoring unit in a trajectories artifact."""
    return f"losses/{step_name(step)}/{shard_path(shard)}"


def token_rows(table: pa.Table) -> TokenRows:
    """The tokens and target spans of dataset rows."""
    ids = table["input_ids"].combine_chunks()
    spans = table["target_spans"].combine_chunks()
    return TokenRows(
        np.asarray(ids.flatten(), dtype=np.int32),
        _offsets(ids),
        np.asarray(spans.flatten(), dtype=np.int32).reshape(-1, 2),
        _offsets(spans) // 2,
    )


def _offsets(lists: pa.ListArray) -> Int64:
    offsets = np.asarray(lists.offsets, dtype=np.int64)
    return offsets - offsets[0] if len(offsets) else np.zeros(1, dtype=np.int64)
