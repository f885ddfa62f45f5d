"""What the workers of `score` do: one checkpoint on one shard, and at the end the numerics.

In: units as records. Out: files under the trajectories' folder and their records. Workers take plain values and are
called without Ray in tests and benchmarks. Torch and transformers are imported inside them, so that the driver, which
names these classes, needs neither.
"""

import dataclasses
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.node_cache import LIMIT_BYTES
from s2l_ray.artifacts.schemas import (
    FAILED_ROWS,
    losses_schema,
    shard_path,
    step_name,
    token_arrays,
)
from s2l_ray.artifacts.tables import write_table
from s2l_ray.errors import S2LError
from s2l_ray.storage import is_local

NUMERICS_ROWS = 256
NONE: Mapping[int, str] = MappingProxyType({})

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

        from s2l_ray.core.scoring.losses import ScoreOptions

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
        self._choice = self._choose_attention(execution["attention"])

    def __call__(self, unit: Unit, without: Mapping[int, str] = NONE) -> Result:
        """Score a shard; the rows of `without` stay null, with the failure for which they do in the file's notes."""
        self._load(unit["step"])
        ids, rows = self._read(unit["shard"])
        scored = self._score(rows, np.setdiff1d(np.arange(len(rows)), list(without)))
        self._check_finite(unit, ids, scored, list(without))
        names = statistics_of_options(self._options.statistics)
        columns = [ids, pa.array(scored["nll_sum"], from_pandas=True), scored["target_tokens"]]
        columns += [pa.array(scored[name].astype(np.float32), from_pandas=True) for name in names]
        table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=losses_schema(names))
        notes = {FAILED_ROWS: json.dumps(without)} if without else {}
        record = write_table(self._folder, unit["path"], table, unit["facts"], notes)
        return {
            "file": vars(record),
            "tokens": len(rows.ids_X),
            "attention": self._choice.attention,
            "max_difference": None if np.isnan(self._choice.max_difference) else float(self._choice.max_difference),
        }

    def _score(self, rows: Any, kept_M: Any) -> dict[str, Any]:
        """What `score_rows` gives of these rows, NaN for the others."""
        from s2l_ray.core.scoring.losses import score_rows

        if len(kept_M) == len(rows):
            return score_rows(self._model, rows, options=self._options)
        scored = score_rows(self._model, rows.take(kept_M), options=self._options)
        spread = {name: np.full(len(rows), np.nan) for name in scored}
        for name, value_M in scored.items():
            spread[name][kept_M] = value_M
        return spread | {"target_tokens": rows.target_tokens_N.astype(np.int32)}

    def _choose_attention(self, wanted: str) -> Any:
        """The same trial for every worker: the first checkpoint that is scored, on the first shard."""
        from s2l_ray.core.scoring.losses import choose_attention, padded_choice

        if wanted == "padded":
            choice = padded_choice("requested")
        else:
            self._load(self._steps[0])
            choice = choose_attention(self._model, self._read(0)[1], self._options)
        self._options = dataclasses.replace(self._options, attention=choice.attention)
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
        from s2l_ray.core.data.token_rows import TokenRows

        columns = ["example_id", "input_ids", "target_spans"]
        table = self._dataset.read_held(shard_path(shard), columns, self._cache_bytes)
        return table["example_id"].combine_chunks(), TokenRows(*token_arrays(table))

    def _check_finite(self, unit: Unit, ids: pa.Array, scored: dict[str, Any], without: list[int]) -> None:
        """A row with targets and no finite loss ends the run, or is kept as missing."""
        bad_N = ~np.isfinite(scored["nll_sum"]) & (scored["target_tokens"] > 0)
        bad_N[without] = False
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


def numerics_of(
    dataset: str, checkpoints: str, score: dict[str, Any], execution: dict[str, Any], step: int, cache_bytes: int
) -> dict[str, Any]:
    """The numerics contract: which way scores and how it was proved, and core/numerics.py's `Numerics`.

    Of the checkpoint of `step`, on rows spread over the first shard. A figure that is not finite is None.
    """
    import torch

    from s2l_ray.core.causal_lm import load_model
    from s2l_ray.core.data.token_rows import TokenRows
    from s2l_ray.core.scoring.losses import ScoreOptions, choose_attention
    from s2l_ray.core.scoring.numerical_error import measure_numerical_error
    from s2l_ray.core.scoring.packed_check import max_positions

    torch.set_num_threads(execution["threads"])
    device = "cuda" if execution["gpus"] and torch.cuda.is_available() else "cpu"
    table = open_artifact(dataset).read_held(shard_path(0), ["input_ids", "target_spans"], cache_bytes)
    rows = TokenRows(*token_arrays(table))
    with open_artifact(checkpoints).hold(f"{step_name(step)}/", cache_bytes) as held:
        folder = held / step_name(step)
        exact, rounded = (load_model(folder, dtype=dtype, device=device) for dtype in (torch.float32, torch.bfloat16))
    with_target_M = np.flatnonzero((rows.target_tokens_N > 0) & (rows.lengths_N <= max_positions(exact)))
    spread = np.linspace(0, len(with_target_M) - 1, min(NUMERICS_ROWS, len(with_target_M))).round().astype(np.int64)
    attention = "padded" if execution["attention"] == "padded" else "packed"
    options = ScoreOptions(execution["tokens_per_batch"], score["dtype"], attention=attention)
    choice = choose_attention(exact if score["dtype"] == "float32" else rounded, rows, options)
    options = dataclasses.replace(options, attention=choice.attention)
    found = measure_numerical_error(exact, rounded, rows.take(with_target_M[spread]), options)
    kind = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    facts = dataclasses.asdict(found) | dataclasses.asdict(choice) | {"step": step, "device": device, "kind": kind}
    return {name: None if value != value or value in (np.inf, -np.inf) else value for name, value in facts.items()}
