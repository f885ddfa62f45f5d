"""Which rows are exported: the rest, unions and intersections, a random control, and their weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.export.chosen import Choice
from s2l_ray.catalog.export.export import export_subset
from s2l_ray.config.load import make_config
from s2l_ray.errors import ConfigError
from tests.support.local_build import build_locally
from tests.support.tiny_models import save_tokenizer, write_rows

POOL = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    write_rows(folder / "rows.jsonl", POOL)
    save_tokenizer(folder / "tokenizer")
    return folder


def subset_of(folder: Path, method: str = "random", **changes: Any) -> Artifact:
    data = {"root": str(folder), "sources": [{"path": "rows.jsonl"}], "tokenizer": "tokenizer", "shard_size": 15}
    select = {"method": method, "budget": 10, **changes.pop("select", {})}
    values = {"root": str(folder / "root"), "run": "export", "data": data | changes, "select": select}
    return build_locally(make_config({**values, "proxy": {"model": {"architecture": "gpt_neox"}}}, "test"))


def exported(subset: Artifact, target: Path, **choice: Any) -> list[str]:
    export_subset(subset, str(target), choice=Choice(**choice), force=True)
    return target.read_text().splitlines()


def ids(artifact: Artifact) -> set[str]:
    return set(artifact.read_table(["example_id"])["example_id"].to_pylist())


def test_the_rest_is_the_complement(folder: Path, tmp_path: Path) -> None:
    subset = subset_of(folder)
    selected, rest = (exported(subset, tmp_path / "rows.jsonl", rest=rest) for rest in (False, True))
    rows = (folder / "rows.jsonl").read_text().splitlines()
    assert len(selected) == 10 and len(rest) == POOL - 10
    assert selected == [row for row in rows if row not in rest]
    assert rest == [row for row in rows if row not in selected]


def test_subsets_are_joined_and_intersected(folder: Path, tmp_path: Path) -> None:
    first, second = subset_of(folder), subset_of(folder, select={"seed": 1})
    one, two = (set(exported(subset, tmp_path / "rows.jsonl")) for subset in (first, second))
    assert set(exported(first, tmp_path / "rows.jsonl", union=(second,))) == one | two
    assert set(exported(first, tmp_path / "rows.jsonl", intersection=(second,))) == one & two
    neither = exported(first, tmp_path / "rows.jsonl", union=(second,), rest=True)
    assert len(neither) == POOL - len(one | two) and not set(neither) & (one | two)


@pytest.mark.parametrize("budget", [10, {"target_tokens": 50}])
def test_the_control_is_the_subset_of_the_method_random(folder: Path, tmp_path: Path, budget: object) -> None:
    longest = subset_of(folder, "longest", select={"budget": budget})
    control = exported(longest, tmp_path / "control.jsonl", control=3)
    random = exported(subset_of(folder, select={"budget": budget, "seed": 3}), tmp_path / "random.jsonl")
    assert control == random != exported(longest, tmp_path / "longest.jsonl")


def test_a_weight_is_one_over_the_probability(folder: Path, tmp_path: Path) -> None:
    subset = subset_of(folder)
    plain = exported(subset, tmp_path / "rows.jsonl")
    weighted = exported(subset, tmp_path / "rows.jsonl", weights=True)
    assert [json.loads(line)["sample_weight"] for line in weighted] == pytest.approx([POOL / 10] * 10)
    assert all(line.startswith(row[:-1]) for line, row in zip(weighted, plain, strict=True))


def test_what_has_no_meaning_is_refused(folder: Path, tmp_path: Path) -> None:
    subset, other_dataset = subset_of(folder), subset_of(folder, max_length=64)
    for choice in ({"union": (other_dataset,)}, {"weights": True, "rest": True}, {"control": 0, "rest": True}):
        with pytest.raises(ConfigError):
            exported(subset, tmp_path / "rows.jsonl", **choice)
    with pytest.raises(ConfigError, match="longest"):
        exported(subset_of(folder, "longest"), tmp_path / "rows.jsonl", weights=True)
    assert not (tmp_path / "rows.jsonl").exists()
