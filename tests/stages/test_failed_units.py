"""A row that cannot be scored: one longer than the model's positions, which training never met."""

import json
import random
import re
from pathlib import Path

import pyarrow.compute as pc
import pytest

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.catalog.verify import verify
from s2l_ray.config.identity import identity_of
from s2l_ray.config.load import load_config
from s2l_ray.errors import DamagedError
from s2l_ray.pipeline.run import plan, run
from s2l_ray.runtime.failures import UnitsFailed
from tests.support.jobs import small_job

ROWS, LONG = 150, 20
SHARDS, STEPS = 3, 2
ALLOW = ["score.failures=allow"]
AT_FAULT = r"losses/step-000000/shard-00000\.parquet:? row 20 \(example \w+\): .*IndexError"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job whose row 20, in shard 0 of 3, no checkpoint can read."""
    digits = random.Random(0)
    rows = [{"prompt": f"add {n} and 7", "response": str(n + 7), "source": "sums"} for n in range(ROWS)]
    rows[LONG]["response"] = "".join(digits.choice("0123456789") for _ in range(300))
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"architecture": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    return small_job(
        tmp_path,
        rows=100,
        data={"root": str(tmp_path), "sources": [{"path": "rows.jsonl", "source": {"field": "source"}}]}
        | {"max_length": 96, "shard_size": ROWS // SHARDS},
        proxy={"model": model, "train_examples": 64, "held_out": 0, "seed": 1, "checkpoints": {"fraction": 1.0}},
        resources={"retries": 0},
    )


@pytest.mark.long
def test_failed_units_are_named_at_the_end_or_done_without(job: Path, ray_session: None) -> None:
    config = load_config(job)
    with pytest.raises(UnitsFailed, match=AT_FAULT) as caught:
        run(config)
    done = STEPS * (SHARDS - 1)
    assert f"{STEPS} units failed in every try, {done} are done" in str(caught.value)
    assert "score.failures: allow" in str(caught.value)
    begun = Path(plan(config)["trajectories"].uri)
    assert len(list(begun.glob("losses/*/*.parquet"))) == done

    without = load_config(job, ALLOW)
    assert plan(without)["checkpoints"].state == "complete"
    run(without)
    trajectories = open_artifact(plan(without)["trajectories"].uri)
    counts, facts = trajectories.manifest.counts, trajectories.manifest.facts
    assert counts["units_scored"] == STEPS, "what was scored before is taken over"
    assert counts["set_aside"] == {"not_scored": 1}
    assert counts["read"] == ROWS == counts["kept"] + sum(counts["set_aside"].values())
    assert len(facts["failed_rows"]) == STEPS and re.match(AT_FAULT, facts["failed_rows"][0])
    assert "failed_units" not in facts
    assert list(facts["scoring_paths"]) == ["packed"] and "not_measured" not in facts["numerics"]
    table = trajectories.read_table()
    aside = table.filter(pc.field("status") == "not_scored")
    assert set(map(tuple, aside["losses"].to_pylist())) == {(None,) * STEPS}
    dataset = open_artifact(plan(without)["dataset"].uri).read_table()
    assert table["example_id"] == dataset["example_id"]
    subset = open_artifact(plan(without)["subset"].uri)
    assert not set(subset.read_table()["example_id"].to_pylist()) & set(aside["example_id"].to_pylist())
    assert [list(verify(step.uri)) for step in plan(without).steps] == [[]] * 5

    weights = next(Path(plan(config)["checkpoints"].uri).glob("step-000000/model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DamagedError, match=r"model\.safetensors.*--rebuild checkpoints"):
        run(config, to="trajectories")


def test_a_job_that_allows_no_failures_is_called_as_before_one_could(tmp_path: Path) -> None:
    job = small_job(tmp_path, rows=100)
    assert "failures" not in identity_of("trajectories", load_config(job))["score"]
    assert identity_of("trajectories", load_config(job, ALLOW))["score"]["failures"] == "allow"
