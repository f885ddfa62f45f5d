"""Experiments: what arms share, one real run, and results by arm."""

import csv
import io
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from sklearn.metrics import adjusted_rand_score

from s2l_ray.artifacts.schemas import tokens_path
from s2l_ray.config.experiment import load_experiment
from s2l_ray.config.load import load_config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.compare import compare
from s2l_ray.pipeline.experiment import ExperimentPlan, check_experiment, plan_experiment, run_experiment
from s2l_ray.pipeline.plan import Plan, plan
from s2l_ray.pipeline.results import experiment_results
from s2l_ray.pipeline.run import run_plan
from s2l_ray.terminal.experiments.views import results_text
from tests.golden.inputs import STEPS, made_examples
from tests.support.jobs import copy_job
from tests.support.local_build import build_locally
from tests.support.pool_artifacts import PoolRow, write_checkpoints, write_dataset, write_trajectories

# the three ablations, each with the job itself as its first value
ARMS: dict[str, dict[str, Any]] = {
    "base": {},
    "k2": {"cluster.k": 2},
    "early": {"cluster.checkpoints": {"from": 0.0, "to": 0.5}},
    "sparse": {"cluster.checkpoints": {"every": 2}},
    "random": {"select.method": "random"},
}


def write(job: Path, **keys: Any) -> Path:
    path = job.parent / "experiment.yaml"
    path.write_text(yaml.safe_dump({"job": job.name, "arms": ARMS, **keys}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job whose trajectories are complete, with made-up losses."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "rows.jsonl").write_text("")
    values = {
        "root": str(folder / "root"),
        "run": "small",
        "data": {"root": str(folder), "sources": [{"path": "rows.jsonl"}], "tokenizer": {"train": {"vocab_size": 400}}},
        "proxy": {"model": {"architecture": "gpt_neox"}},
        "cluster": {"k": 4},
        "select": {"budget": "20%"},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    planned = plan(load_config(path), "trajectories")
    examples = [PoolRow(one.example_id, one.source, one.status, one.losses) for one in made_examples()]
    shards = [examples[start : start + 50] for start in range(0, len(examples), 50)]
    write_dataset(planned["dataset"].uri, shards)
    write_checkpoints(planned["checkpoints"].uri, STEPS, planned["checkpoints"].inputs)
    write_trajectories(planned["trajectories"].uri, shards, STEPS, planned["trajectories"].inputs)
    return path


@pytest.fixture(scope="module")
def ended(job: Path) -> ExperimentPlan:
    """The experiment whose jobs were built one after the other in this process."""
    experiment = load_experiment(write(job, seeds=[0, 1]))
    for one in experiment.jobs:
        build_locally(one.config)
    return plan_experiment(experiment)


def test_arms_share_what_their_overrides_do_not_change(job: Path) -> None:
    planned = plan_experiment(load_experiment(write(job), ["seeds=[0]"]))
    users = {}
    for shared in planned.steps:
        users.setdefault(shared.step.kind, []).append([name.partition(".")[0] for name in shared.users])
    clustered = [name for name in ARMS if name != "random"]
    assert users == {
        "dataset": [list(ARMS)],
        "checkpoints": [clustered],
        "trajectories": [clustered],
        "clusters": [[name] for name in clustered],
        "subset": [[name] for name in ARMS],
    }


def test_a_varied_key_is_shared_by_the_arms_of_a_seed(job: Path) -> None:
    planned = plan_experiment(load_experiment(write(job, vary=["proxy.seed"]), ["seeds=[7, 8]"]))
    trained = [shared for shared in planned.steps if shared.step.kind == "checkpoints"]
    assert [{name.partition(".")[2] for name in shared.users} for shared in trained] == [{"7"}, {"8"}]


def test_an_arm_that_cannot_run_is_refused_before_any_runs(job: Path) -> None:
    path = write(job, arms={"first": {}, "greedy": {"select.budget": 10**6}})
    planned = plan_experiment(load_experiment(path))
    for carry_out in (check_experiment, run_experiment):
        with pytest.raises(ConfigError, match="greedy"):
            carry_out(planned)
    with pytest.raises(ConfigError, match="subset"):
        experiment_results(planned)


def test_each_artifact_is_built_once(job: Path, ended: ExperimentPlan) -> None:
    root = Path(yaml.safe_load(job.read_text())["root"])
    built = {kind: len(list((root / kind).iterdir())) for kind in ("trajectories", "clusters", "subset")}
    assert built == {"trajectories": 1, "clusters": 4 * 2, "subset": 5 * 2}
    assert ended.missing == ()
    assert list(ended.subsets()) == [f"{arm}.{seed}" for arm in ARMS for seed in (0, 1)]


@pytest.mark.slow
def test_a_run_scores_nothing_and_resumes(finished: Path, tmp_path: Path) -> None:
    job = copy_job(finished, tmp_path, "dataset", "checkpoints", "trajectories")
    planned = plan_experiment(load_experiment(write(job)))
    run_plan(planned.arms[0].plan)
    kinds: list[str] = []

    def carry_out(one: Plan) -> Plan:
        kinds.extend(step.kind for step in one.missing)
        return run_plan(one)

    ended = run_experiment(planned, carry_out)
    assert kinds == [*["clusters", "subset"] * 3, "subset"] and ended.missing == ()
    root = Path(yaml.safe_load(job.read_text())["root"])
    assert {path.name for path in (root / "runs").iterdir()} == {f"small.{name}" for name in ended.subsets()}


def test_results_are_means_over_seeds(ended: ExperimentPlan) -> None:
    results = experiment_results(ended)
    ids = {name: set(one.read_table(["example_id"])["example_id"].to_pylist()) for name, one in ended.subsets().items()}

    def overlap(first: str, second: str) -> float:
        return len(ids[first] & ids[second]) / min(len(ids[first]), len(ids[second]))

    assert results.references == ("base", "random")
    for one in results.arms:
        assert (one.seeds, one.rows) == (2, len(ids[f"{one.arm}.0"]))
        assert one.stability == pytest.approx(overlap(f"{one.arm}.0", f"{one.arm}.1"))
        for reference, found in one.overlaps.items():
            pairs = [overlap(f"{one.arm}.{seed}", f"{reference}.{seed}") for seed in (0, 1)]
            assert found == pytest.approx(sum(pairs) / 2)
    # base is the first arm with clusters; early and sparse arms cluster other columns, random has none
    rand = {one.arm: one.adjusted_rand for one in results.arms}
    for arm in ("base", "k2", "early", "sparse"):
        labels = [
            [
                ended.subsets()[f"{name}.{seed}"].input("clusters").read_table(["cluster"])["cluster"].to_pylist()
                for name in ("base", arm)
            ]
            for seed in (0, 1)
        ]
        scores = [
            adjusted_rand_score(*zip(*[pair for pair in zip(*both, strict=True) if None not in pair], strict=True))
            for both in labels
        ]
        assert rand[arm] == pytest.approx(sum(scores) / 2)
    assert rand["base"] == 1.0 and rand["random"] is None
    rows = list(csv.DictReader(io.StringIO(results_text(results, ".csv"))))
    assert [row["arm"] for row in rows] == list(ARMS)
    assert float(rows[1]["overlap with base"]) == pytest.approx(results.arms[1].overlaps["base"])
    markdown = results_text(results, ".md").splitlines()
    assert len({line.count("|") for line in markdown[: 2 + len(ARMS)]}) == 1


def test_tokens_of_an_arm_are_those_of_its_rows(ended: ExperimentPlan) -> None:
    for arm, name in zip(experiment_results(ended).arms, [f"{arm}.0" for arm in ARMS], strict=True):
        lengths = []
        for subset in (one for key, one in ended.subsets().items() if key.startswith(f"{arm.arm}.")):
            tokens = subset.input("dataset")
            for row in subset.read_table(["shard", "row"]).to_pylist():
                spans = tokens.read_file(tokens_path(row["shard"]))["target_spans"][row["row"]].as_py()
                lengths.append(sum(spans[1::2]) - sum(spans[::2]))
        assert arm.target_tokens == sum(lengths) / 2 and name in ended.subsets()
        assert arm.mean_length == pytest.approx(sum(lengths) / len(lengths))


def test_stability_is_the_overlap_between_the_seeds_of_experiments(job: Path, ended: ExperimentPlan) -> None:
    """A seed of `compare` is select.seed alone, so that the clusters are those of seed 0."""
    (stable,) = compare(str(job), overrides=["select.method=random", "run=small.random.0"], seeds=2).stability
    random = next(one for one in experiment_results(ended).arms if one.arm == "random")
    assert stable.mean_overlap == stable.lowest_overlap == pytest.approx(random.stability)
    assert (stable.rows, stable.seeds) == (random.rows, 2)
    both = compare(ended.subsets()["random.0"], str(job), overrides=["select.method=random"], seeds=3)
    assert len(both.stability) == 2 and len(both.subset_pairs) == 1
    (other,) = compare(str(job), overrides=["select.method=loss_low", "run=new"], seeds=2).stability
    assert (other.method, other.mean_overlap) == ("loss_low", 1.0)
    with pytest.raises(ConfigError, match="seeds"):
        compare(str(job), overrides=["select.method=random"], seeds=1)


def test_an_experiment_is_compared_by_its_subsets(job: Path, ended: ExperimentPlan) -> None:
    found = compare(str(write(job, seeds=[0, 1])), overrides=["seeds=[0]"])
    assert [one.name for one in found.subsets] == [f"{arm}.0" for arm in ARMS]
    assert len(found.subset_pairs) == len(list(combinations(ARMS, 2)))
    assert len(found.clusterings) == len(list(combinations(range(4), 2)))
    assert found.rankings == ()
