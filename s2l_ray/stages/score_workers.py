"""What the workers of `score` do: one checkpoint on one shard, and the units of a shard put side by side.

In: units as records. Out: files under the trajectories' folder and their records. Workers take plain values and are
called without Ray in tests and benchmarks. Torch and transformers are imported inside them, so that the driver, which
names these classes, needs neither.
"""

import dataclasses
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.errors import S2LError
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.node_cache import LIMIT_BYTES
from s2l_ray.artifacts.schemas import (
    NO_TARGET_TOKENS,
    NON_FINITE,
    NOT_SCORED,
    OK,
    losses_schema,
    shard_path,
    step_name,
    token_arrays,
    trajectories_schema,
)
from s2l_ray.artifacts.storage import is_local
from s2l_ray.artifacts.tables import FileRecord, read_table, write_table

NUMERICS_ROWS = 256

Unit = dict[str, Any]
Result = dict[str, Any]


class ScoreWorker:
    """One model in memory, whose weights are swapped from checkpoint to checkpoint."""

    def __init__(
        self,
        folder: str,
        dataset: str,
        checkpoints: str,
        score: dict[str, Any],
        execution: dict[str, Any],
        cache_bytes: int = LIMIT_BYTES,
    ) -> None:
        import torch

        from s2l_ray.core.losses import ScoreOptions

        torch.set_num_threads(execution["threads"])
        self._folder = folder
        self._dataset = open_artifact(dataset)
        self._checkpoints = open_artifact(checkpoints)
        self._cache_bytes = cache_bytes
        self._non_finite = score["non_finite"]
        self._device = "cuda" if execution["gpus"] and torch.cuda.is_available() else "cpu"
        self._options = ScoreOptions(execution["tokens_per_batch"], score["dtype"], tuple(score["statistics"]))
        self._model: Any = None
        self._step: int | None = None
        saved, wanted = self._checkpoints.manifest.facts["steps"], score["checkpoints"]
        self._steps = sorted(int(step) for step in (saved if wanted == "all" else wanted))
        self._ahead = ThreadPoolExecutor(max_workers=1)
        self._choice = self._choose_path(execution["path"])

    def __call__(self, unit: Unit) -> Result:
        from s2l_ray.core.losses import score_rows

        self._load(unit["step"])
        ids, rows = self._read(unit["shard"])
        scored = score_rows(self._model, rows, options=self._options)
        self._check_finite(unit, ids, scored)
        names = statistics_of_options(self._options.statistics)
        columns = [ids, pa.array(scored["nll_sum"], from_pandas=True), scored["target_tokens"]]
        columns += [pa.array(scored[name].astype(np.float32), from_pandas=True) for name in names]
        table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=losses_schema(names))
        record = write_table(self._folder, unit["path"], table, unit["facts"])
        return {
            "file": vars(record),
            "tokens": len(rows.ids_X),
            "path": self._choice.path,
            "max_difference": None if np.isnan(self._choice.max_difference) else float(self._choice.max_difference),
        }

    def _choose_path(self, wanted: str) -> Any:
        """The same trial for every worker: the first checkpoint that is scored, on the first shard."""
        from s2l_ray.core.losses import PathChoice, choose_path

        if wanted == "plain":
            choice = PathChoice("plain", 0.0, float("nan"), "asked for")
        else:
            self._load(self._steps[0])
            choice = choose_path(self._model, self._read(0)[1], self._options)
        self._options = dataclasses.replace(self._options, path=choice.path)
        return choice

    def _load(self, step: int) -> None:
        import torch

        from s2l_ray.core.causal_lm import load_model, swap_weights

        if step == self._step:
            return
        with self._checkpoints.hold(f"{step_name(step)}/", self._cache_bytes) as held:
            folder = held / step_name(step)
            if self._model is None:
                self._model = load_model(folder, dtype=getattr(torch, self._options.dtype), device=self._device)
            else:
                swap_weights(self._model, folder)
        self._step = step
        self._fetch_ahead(step)

    def _fetch_ahead(self, step: int) -> None:
        """Bring the next checkpoint onto the node while this one scores; where that fails, `_load` will say why."""
        later = [other for other in self._steps if other > step]
        if later and not is_local(self._checkpoints.uri):
            self._ahead.submit(self._bring, later[0])

    def _bring(self, step: int) -> None:
        with self._checkpoints.hold(f"{step_name(step)}/", self._cache_bytes):
            pass

    def _read(self, shard: int) -> tuple[pa.ChunkedArray, Any]:
        from s2l_ray.core.token_rows import TokenRows

        columns = ["example_id", "input_ids", "target_spans"]
        table = self._dataset.read_held(shard_path(shard), columns, self._cache_bytes)
        return table["example_id"].combine_chunks(), TokenRows(*token_arrays(table))

    def _check_finite(self, unit: Unit, ids: pa.Array, scored: dict[str, Any]) -> None:
        """A row with targets and no finite loss ends the run, or is kept as missing."""
        bad_N = ~np.isfinite(scored["nll_sum"]) & (scored["target_tokens"] > 0)
        if bad_N.any() and self._non_finite == "fail":
            some = ", ".join(ids.filter(pa.array(bad_N)).to_pylist()[:5])
            raise S2LError(
                f"score: {int(bad_N.sum())} rows of shard {unit['shard']} have no finite loss at step {unit['step']} "
                f"(examples {some}); the proxy may have diverged: lower proxy.learning_rate, score in float32, or keep "
                "such rows as missing with score.non_finite: null"
            )
        scored["nll_sum"] = np.where(np.isfinite(scored["nll_sum"]), scored["nll_sum"], np.nan)


def statistics_of_options(statistics: tuple[str, ...]) -> tuple[str, ...]:
    """The statistics beside the loss."""
    return tuple(name for name in statistics if name != "loss")


class JoinWorker:
    """The units of one shard, side by side: one trajectory a row. Of a unit that failed there is None."""

    def __init__(self, folder: str, dataset: str, statistics: tuple[str, ...]) -> None:
        self._folder = folder
        self._dataset = open_artifact(dataset)
        self._statistics = tuple(statistics)

    def __call__(self, unit: Unit) -> Result:
        rows = self._dataset.read_file(shard_path(unit["shard"]), ["example_id", "source"])
        columns = [self._read(record, rows, unit["shard"]) for record in unit["units"]]
        tokens_N = self._target_tokens(columns, unit["shard"])
        nll_NT = _side_by_side(columns, "nll_sum", len(rows))
        with np.errstate(invalid="ignore", divide="ignore"):
            loss_NT = (nll_NT / tokens_N[:, None]).astype(np.float32)
        missing_N = tokens_N == 0
        numbers_N = np.isfinite(loss_NT[:, [column is not None for column in columns]]).all(axis=1)
        scored = NOT_SCORED if None in columns else OK
        status_N = np.where(missing_N, NO_TARGET_TOKENS, np.where(numbers_N, scored, NON_FINITE))
        series = [_series(loss_NT, missing_N)]
        for name in self._statistics:
            series.append(_series(_side_by_side(columns, name, len(rows)), missing_N))
        table = pa.Table.from_arrays(
            [rows["example_id"], rows["source"], pa.array(tokens_N), pa.array(status_N), *series],
            schema=trajectories_schema(len(columns), self._statistics),
        )
        record = write_table(self._folder, shard_path(unit["shard"]), table)
        ok_sources = rows["source"].filter(pa.array(status_N == OK)).to_pylist()
        return {
            "file": vars(record),
            "statuses": dict(Counter(status_N.tolist())),
            "ok_by_source": dict(Counter(ok_sources)),
        }

    def _read(self, record: dict[str, Any] | None, rows: pa.Table, shard: int) -> pa.Table | None:
        if record is None:
            return None
        column = read_table(self._folder, FileRecord(**record))
        if column["example_id"] != rows["example_id"]:
            raise S2LError(f"{self._folder}/{record['path']}: holds other rows than shard {shard}")
        return column

    def _target_tokens(self, columns: list[pa.Table | None], shard: int) -> Any:
        from s2l_ray.core.token_rows import TokenRows

        for column in columns:
            if column is not None:
                return column["target_tokens"].to_numpy()
        table = self._dataset.read_file(shard_path(shard), ["input_ids", "target_spans"])
        return TokenRows(*token_arrays(table)).target_tokens_N


def _side_by_side(columns: list[pa.Table | None], name: str, rows: int) -> Any:
    """One column of every unit as value_NT, NaN where a unit is missing."""
    missing_N = np.full(rows, np.nan)
    return np.stack([missing_N if one is None else one[name].to_numpy() for one in columns], axis=1)


def _series(value_NT: Any, missing_N: Any) -> pa.FixedSizeListArray:
    """One list a row: null where the row has no targets, a null entry where a checkpoint gave no number."""
    values = pa.array(value_NT.astype(np.float32).reshape(-1), from_pandas=True)
    return pa.FixedSizeListArray.from_arrays(values, value_NT.shape[1], mask=pa.array(missing_N))


def numerics_of(
    dataset: str, checkpoints: str, score: dict[str, Any], execution: dict[str, Any], step: int, cache_bytes: int
) -> dict[str, Any]:
    """The numerics contract: which way scores and how it was proved, and core/numerics.py's `Numerics`.

    Of the checkpoint of `step`, on rows spread over the first shard. A figure that is not finite is None.
    """
    import torch

    from s2l_ray.core.causal_lm import load_model
    from s2l_ray.core.losses import ScoreOptions, choose_path
    from s2l_ray.core.numerics import measure_numerics
    from s2l_ray.core.token_rows import TokenRows

    torch.set_num_threads(execution["threads"])
    device = "cuda" if execution["gpus"] and torch.cuda.is_available() else "cpu"
    table = open_artifact(dataset).read_held(shard_path(0), ["input_ids", "target_spans"], cache_bytes)
    rows = TokenRows(*token_arrays(table))
    with_target_M = np.flatnonzero(rows.target_tokens_N)
    spread = np.linspace(0, len(with_target_M) - 1, min(NUMERICS_ROWS, len(with_target_M))).round().astype(np.int64)
    with open_artifact(checkpoints).hold(f"{step_name(step)}/", cache_bytes) as held:
        folder = held / step_name(step)
        exact, rounded = (load_model(folder, dtype=dtype, device=device) for dtype in (torch.float32, torch.bfloat16))
    path = "plain" if execution["path"] == "plain" else "packed"
    options = ScoreOptions(execution["tokens_per_batch"], score["dtype"], path=path)
    choice = choose_path(exact if score["dtype"] == "float32" else rounded, rows, options)
    options = dataclasses.replace(options, path=choice.path)
    found = measure_numerics(exact, rounded, rows.take(with_target_M[spread]), options)
    kind = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    facts = dataclasses.asdict(found) | dataclasses.asdict(choice) | {"step": step, "device": device, "kind": kind}
    return {name: None if value != value or value in (np.inf, -np.inf) else value for name, value in facts.items()}
