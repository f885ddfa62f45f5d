"""A small real job for tests: demo rows, a tokenizer trained on them, a GPT-NeoX of a few thousand parameters."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import yaml

from s2l_ray.demo.dataset import make_demo


def small_job(folder: Path, rows: int = 400, **changes: Any) -> Path:
    """Write demo rows and a job over them; `changes` are sections to update. Returns the job file."""
    make_demo(folder / "demo", rows=rows)
    values: dict[str, Any] = {
        "root": str(folder / "artifacts"),
        "run": "small",
        "data": {
            "root": str(folder / "demo"),
            "sources": [{"path": "rows", "source": {"field": "source"}}],
            "tokenizer": {"train": {"vocab_size": 400}},
            "max_length": 96,
            "shard_size": 100,
            "held_out": {"per_source": 4},
        },
        "proxy": {
            "model": {
                "architecture": "gpt_neox",
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            },
            "epochs": 2,
            "learning_rate": 5e-3,
            "batch_size": 16,
            "precision": "float32",
            "checkpoints": {"fraction": 0.2},
        },
        "cluster": {"k": 4},
        "select": {"budget": "20%"},
        "resources": {"train": {"save_minutes": 0.01, "threads": 1}, "score": {"workers": 1}},
    }
    for section, update in changes.items():
        values[section] = {**values.get(section, {}), **update}
    folder.mkdir(parents=True, exist_ok=True)
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(values, sort_keys=False))
    return job


def copy_job(job: Path, folder: Path, *kinds: str) -> Path:
    """A copy of a job in an empty folder, with its complete artifacts of these kinds. Returns the job file."""
    values = yaml.safe_load(job.read_text())
    root = Path(values["root"])
    values["root"] = str(folder / root.name)
    for kind in kinds:
        shutil.copytree(root / kind, folder / root.name / kind)
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / job.name
    copy.write_text(yaml.safe_dump(values, sort_keys=False))
    return copy


def subset_sha256(root: Path) -> str:
    """sha256 of the subset's file; there is one subset below the root."""
    (file,) = root.glob("subset/*/shard-00000.parquet")
    return hashlib.sha256(file.read_bytes()).hexdigest()
