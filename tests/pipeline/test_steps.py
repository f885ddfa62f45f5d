"""The table of steps: order, inputs of each method, and the part of a job that decides each kind."""

from typing import Any

import pytest

from s2l_ray.artifacts.schemas import KINDS
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.steps import STEPS, step_of, steps_to


def config_of(*, features: str = "trajectories", **select: Any) -> Config:
    return make_config(
        {
            "root": "runs",
            "run": "test",
            "data": {
                "sources": [{"hub": "owner/rows", "revision": "0" * 40}],
                "tokenizer": {"train": {"vocab_size": 400}},
            },
            "proxy": {"model": {"architecture": "gpt_neox", "hidden_size": 16}, "epochs": 2},
            "cluster": {"k": 7, "features": features},
            "select": {"budget": "10%", **select},
        },
        "test",
    )


ANY = config_of()
# What a job of each method builds, written by hand.
CLUSTERED = ("s2l", "random_clusters")
WITHOUT_PROXY = ("random", "source_balanced", "stratified", "longest", "shortest", "column")


def kinds_of(method: str) -> list[str]:
    if method in WITHOUT_PROXY:
        return ["dataset", "subset"]
    return ["dataset", "checkpoints", "trajectories", *(["clusters"] if method in CLUSTERED else []), "subset"]


def select_of(method: str) -> dict[str, str]:
    return {"method": method} | ({"path": "a.parquet", "column": "value"} if method == "column" else {})


def kinds(to: str, config: Config) -> list[str]:
    return [step.kind for step in steps_to(to, config)]


def test_steps_are_in_the_order_of_kinds() -> None:
    assert [step.kind for step in STEPS] == list(KINDS)
    assert all(step_of(kind, ANY).kind == kind for kind in KINDS)
    assert len(set(KINDS)) == len(KINDS)


@pytest.mark.parametrize("method", SELECTORS)
def test_inputs_of_a_step_are_built_before_it(method: str) -> None:
    config = config_of(**select_of(method))
    for position, step in enumerate(STEPS):
        inputs = step.inputs(config)
        assert set(inputs) <= set(KINDS[:position]) and len(set(inputs)) == len(inputs)


@pytest.mark.parametrize("method", SELECTORS)
def test_kinds_that_a_method_builds(method: str) -> None:
    assert kinds("subset", config_of(**select_of(method))) == kinds_of(method)


def test_a_job_that_clusters_embeddings_trains_no_proxy() -> None:
    config = config_of(features="embeddings", method="s2l")
    assert kinds("subset", config) == ["dataset", "embeddings", "clusters", "subset"]
    assert kinds("clusters", config) == ["dataset", "embeddings", "clusters"]
    published = config_of(features="embeddings", method="learning_percentage", within="clusters")
    assert kinds("subset", published) == ["dataset", "embeddings", "checkpoints", "trajectories", "clusters", "subset"]


@pytest.mark.parametrize("method", SELECTORS)
@pytest.mark.parametrize("to", KINDS[: KINDS.index("subset")])
def test_kinds_up_to_another_do_not_depend_on_the_method(to: str, method: str) -> None:
    first = {"embeddings": ["dataset"], "task": []}
    expected = first.get(to, [kind for kind in KINDS[: KINDS.index(to)] if kind not in first])
    assert kinds(to, config_of(**select_of(method))) == [*expected, to]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [("subset", ["dataset", "subset", "target"]), ("pool", ["dataset", "target"]), ("none", ["dataset", "target"])],
)
def test_a_target_needs_a_subset_only_to_train_on(rows: str, expected: list[str]) -> None:
    values = config_of(method="random").model_dump(mode="json", by_alias=True)
    config = make_config({**values, "select": {"method": "random", "budget": 1}, "target": {"rows": rows}}, "test")
    assert kinds("target", config) == expected


def test_a_target_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"target\.model"):
        step_of("target", ANY).identity(ANY)


@pytest.mark.parametrize("kind", ["subsets", "", "runs"])
def test_an_unknown_kind_is_refused_with_the_known_ones(kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        steps_to(kind, ANY)
    assert all(known in str(caught.value) for known in KINDS)


@pytest.mark.parametrize(
    ("kind", "identity"),
    [
        ("trajectories", {"score": ANY.score.model_dump(mode="json", exclude={"losses_from"})}),
        ("clusters", {"cluster": ANY.cluster.model_dump(mode="json")}),
        ("subset", {"select": {"method": "s2l", "budget": "10%", "seed": 0, "min_cluster_size": 3, "compat": None}}),
    ],
)
def test_identity_of_a_kind(kind: str, identity: dict[str, Any]) -> None:
    assert step_of(kind, ANY).identity(ANY) == identity


def test_identities_of_data_and_proxy_hold_their_sections() -> None:
    data, proxy = step_of("dataset", ANY).identity(ANY)["data"], step_of("checkpoints", ANY).identity(ANY)["proxy"]
    assert data["tokenizer"] == {"train": {"vocab_size": 400}}
    assert data["max_length"] == 512 and "root" not in data
    assert proxy["model"] == {"architecture": "gpt_neox", "hidden_size": 16}
    assert proxy["epochs"] == 2


def test_folders_that_only_the_building_needs() -> None:
    assert {step.kind: step.leftovers for step in STEPS if step.leftovers} == {
        "dataset": ("work",),
        "task": ("work",),
        "target_dataset": ("work",),
        "checkpoints": ("resume",),
        "target": ("resume",),
        "evaluation": ("work",),
    }
    assert all(step.version >= 1 for step in STEPS)
