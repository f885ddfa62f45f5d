"""Run the golden jobs: the stages of the pipeline in this process, on trajectories that are written beforehand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2l_ray.catalog.listing import COMPLETE
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.demo.dataset import make_demo
from s2l_ray.pipeline.plan import plan
from tests.golden.inputs import DEMO_JOBS, DEMO_ROWS, DEMO_SEED, S2L_JOBS, SHARD_SIZE, STEPS, made_examples
from tests.support.local_build import build_locally
from tests.support.pool_artifacts import PoolRow, write_checkpoints, write_dataset, write_trajectories

LISTS = Path(__file__).parent / "lists"
NAMES = (*DEMO_JOBS, *S2L_JOBS)


def list_path(name: str) -> Path:
    """The file with the ids of a job, one a line."""
    return LISTS / f"{name}.txt"


def selected_ids(name: str, folder: Path) -> list[str]:
    """Run a job in `folder`, which all jobs share, and return the ids of its subset in order."""
    config = _demo_config(folder, DEMO_JOBS[name]) if name in DEMO_JOBS else _made_config(folder, S2L_JOBS[name])
    ids: list[str] = build_locally(config).read_table(["example_id"])["example_id"].to_pylist()
    return ids


def _demo_config(folder: Path, sections: Mapping[str, Any]) -> Config:
    rows = folder / "demo"
    if not rows.exists():
        make_demo(rows, seed=DEMO_SEED, rows=DEMO_ROWS)
    return _config(folder, {**sections, "data": {**sections["data"], "root": str(rows)}})


def _made_config(folder: Path, sections: Mapping[str, Any]) -> Config:
    """The job, whose dataset, checkpoints and trajectories are complete."""
    rows = folder / "made"
    rows.mkdir(exist_ok=True)
    (rows / "rows.jsonl").write_text("")
    data = {"root": str(rows), "sources": [{"path": "rows.jsonl"}], "tokenizer": {"train": {"vocab_size": 400}}}
    config = _config(folder, {"data": data, **sections})
    planned = plan(config, "trajectories")
    if planned["trajectories"].state != COMPLETE:
        examples = [PoolRow(one.example_id, one.source, one.status, one.losses) for one in made_examples()]
        shards = [examples[start : start + SHARD_SIZE] for start in range(0, len(examples), SHARD_SIZE)]
        write_dataset(planned["dataset"].uri, shards)
        write_checkpoints(planned["checkpoints"].uri, STEPS, planned["checkpoints"].inputs)
        write_trajectories(planned["trajectories"].uri, shards, STEPS, planned["trajectories"].inputs)
    return config


def _config(folder: Path, sections: Mapping[str, Any]) -> Config:
    values = {
        "root": str(folder / "root"),
        "run": "golden",
        "proxy": {"model": {"architecture": "gpt_neox"}},
        "resources": {"cluster": {"backend": "torch"}},
    }
    return make_config({**values, **sections}, "golden")
