"""A tracker that is not installed is refused before a run, with what to install."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from s2l_ray.config.load import make_config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.preflight import check_feasible


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_whose_package_is_missing_is_refused(tmp_path: Path, name: str) -> None:
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 8)
    data = {"root": str(tmp_path), "sources": [{"path": "rows.jsonl"}], "tokenizer": {"train": {"vocab_size": 300}}}
    select = {"method": "random", "budget": 5}
    values = {"root": str(tmp_path / "root"), "run": "tracked", "data": data, "track": [name], "select": select}
    config = make_config({**values, "proxy": {"model": "owner/name"}}, "job.yaml")
    with pytest.raises(ConfigError, match=rf"s2l_ray\[{name}\]"):
        check_feasible(plan(config))
