"""`run` refuses jobs that cannot succeed before Ray starts and before anything is written."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import s2l_ray
from s2l_ray.artifacts.execution import COMPARED_LIBRARIES, Execution, PrepareExecution, write_execution
from s2l_ray.artifacts.provenance import libraries
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.pipeline import preflight
from s2l_ray.pipeline.plan import plan
from s2l_ray.runtime import session
from tests.support.jobs import small_job
from tests.support.pool_artifacts import PoolRow, write_dataset

POOL, VOCABULARY, PARAMETERS = 100, 400, 1000
# 6 checkpoints at 0, 20 %, ... 100 % of the steps, and two resume states of the weights and two moments, in float32
BYTES_NEEDED = (6 + 2 * 3) * PARAMETERS * 4
Usage = namedtuple("Usage", "total used free")


class RayStarted(Exception):
    """The run passed its checks."""


@pytest.fixture(autouse=True)
def ray_must_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise RayStarted

    monkeypatch.setattr(session, "connect", connect)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job without any artifact, whose model has a folder with an embedding for each token of the tokenizer."""
    folder = tmp_path_factory.mktemp("job")
    model = folder / "model"
    model.mkdir()
    save_file({"weights": np.zeros(PARAMETERS, np.float32)}, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps({"vocab_size": VOCABULARY}))
    return small_job(folder, rows=50, proxy={"model": str(model)})


def without_dataset(job: Path, root: Path, *overrides: str) -> Config:
    return load_config(job, [f"root={root}", *overrides])


def with_dataset(job: Path, root: Path, *overrides: str) -> Config:
    config = without_dataset(job, root, *overrides)
    rows = [PoolRow(f"row-{number}") for number in range(POOL)]
    write_dataset(plan(config, "dataset")["dataset"].uri, [rows], VOCABULARY)
    return config


def assert_refused(config: Config, key: str) -> None:
    before = set(Path(config.root).rglob("*"))
    with pytest.raises(ConfigError, match=key):
        s2l_ray.run(config)
    assert set(Path(config.root).rglob("*")) == before


def assert_started(config: Config) -> None:
    with pytest.raises(RayStarted):
        s2l_ray.run(config)


def test_a_feasible_job_starts(job: Path, tmp_path: Path) -> None:
    assert_started(without_dataset(job, tmp_path / "empty"))
    assert_started(with_dataset(job, tmp_path / "dataset"))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (f"select.budget={POOL + 1}", r"select\.budget"),
        ("select.budget=0.1%", r"select\.budget"),
        (f"proxy.train_examples={POOL + 1}", r"proxy\.train_examples"),
        (f"proxy.batch_size={POOL + 1}", r"proxy\.batch_size"),
    ],
)
def test_a_job_that_does_not_fit_its_pool_is_refused(job: Path, tmp_path: Path, override: str, key: str) -> None:
    """The job holds 16 rows out, so 84 of the pool remain to train on."""
    assert_refused(with_dataset(job, tmp_path, override), key)


@pytest.mark.parametrize("limit", ["data.limit=40", "data.sources.0.rows=40"])
def test_a_budget_above_the_rows_that_a_job_admits_is_refused_without_a_dataset(
    job: Path, tmp_path: Path, limit: str
) -> None:
    assert_refused(without_dataset(job, tmp_path, limit, "select.budget=41"), r"select\.budget")
    assert_started(without_dataset(job, tmp_path, limit, "select.budget=40"))


def test_checkpoints_that_do_not_fit_on_the_disk_are_refused(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, BYTES_NEEDED - 1))
    assert_refused(with_dataset(job, tmp_path / "full"), r"proxy\.checkpoints")
    assert_started(with_dataset(job, tmp_path / "no proxy", "select.method=random"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, BYTES_NEEDED))
    assert_started(with_dataset(job, tmp_path / "enough"))


def test_a_tokenizer_larger_than_the_embedding_is_refused(job: Path, tmp_path: Path) -> None:
    larger = f"data.tokenizer.train.vocab_size={VOCABULARY + 1}"
    assert_refused(without_dataset(job, tmp_path, larger), r"data\.tokenizer")


def test_embeddings_that_cannot_be_computed_are_refused(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded, commit = "cluster.features=embeddings", f"embed.revision={'a' * 40}"
    assert_refused(without_dataset(job, tmp_path, embedded, f"embed.model={job.parent / 'model'}"), r"modules\.json")
    assert_refused(without_dataset(job, tmp_path, embedded, "embed.model=./nowhere"), r"embed\.model")
    assert_started(without_dataset(job, tmp_path / "hub", embedded, commit))
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    assert_refused(without_dataset(job, tmp_path, embedded, commit), r"pip install 's2l_ray\[embed\]'")
    assert_started(without_dataset(job, tmp_path / "unused"))


def begun_under(config: Config, versions: dict[str, str]) -> None:
    """A dataset that was begun under these library versions."""
    write_execution(plan(config, "dataset")["dataset"].uri, Execution(PrepareExecution(1000), versions))


@pytest.mark.parametrize("library", COMPARED_LIBRARIES)
def test_a_resume_under_other_library_versions_is_refused(job: Path, tmp_path: Path, library: str) -> None:
    if library not in libraries():
        pytest.skip(f"{library} is not installed")
    config = without_dataset(job, tmp_path)
    begun_under(config, libraries() | {library: "0.0.1"})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(S2LError, match=rf"{library} 0\.0\.1 -> .*--allow-version-change"):
        s2l_ray.run(config)
    assert set(tmp_path.rglob("*")) == before
    with pytest.raises(RayStarted):
        s2l_ray.run(config, allow_version_change=True)


def test_a_rebuild_does_not_depend_on_the_versions_before(job: Path, tmp_path: Path) -> None:
    config = without_dataset(job, tmp_path)
    begun_under(config, libraries() | {"torch": "0.0.1"})
    with pytest.raises(RayStarted):
        s2l_ray.run(config, rebuild="dataset")


def test_a_resume_under_the_same_versions_starts(job: Path, tmp_path: Path) -> None:
    config = without_dataset(job, tmp_path)
    begun_under(config, libraries() | {"ray": "0.0.1", "python": "3.0"})
    assert_started(config)
