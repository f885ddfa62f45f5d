"""Rules of sections that types alone do not express."""

import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config, Select
from s2l_ray.core.selection.pool import NoParams
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.core.selection.s2l import S2LParams
from s2l_ray.errors import ConfigError

TOKENS: list[dict[str, object]] = [{}, {"tokens": 0}, {"tokens": "9"}, {"rows": 9}, {"tokens": 9, "target_tokens": 9}]
# Keys without which a method is incomplete.
OWN_KEYS: dict[str, dict[str, Any]] = {"column": {"path": "values.parquet", "column": "value"}}


def config_with(**sections: dict[str, Any]) -> Config:
    values: dict[str, Any] = {
        "root": "runs",
        "run": "test",
        "data": {"sources": [{"path": "a.jsonl"}], "tokenizer": "gpt2"},
        "proxy": {"model": "gpt2"},
        "select": {"budget": 100},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return make_config(values, "test")


@pytest.mark.parametrize(
    ("select", "params"),
    [
        ({}, S2LParams(3)),
        ({"min_cluster_size": 7}, S2LParams(7)),
        ({"method": "s2l", "min_cluster_size": 1}, S2LParams(1)),
        ({"method": "random"}, NoParams()),
    ],
)
def test_params_are_the_methods_own_keys(select: dict[str, Any], params: object) -> None:
    assert config_with(select=select).select.params == params


@pytest.mark.parametrize(
    "method", [name for name in SELECTORS if "min_cluster_size" not in SELECTORS[name].param_names()]
)
def test_keys_of_other_methods_are_ignored(method: str) -> None:
    own = OWN_KEYS.get(method, {})
    expected = config_with(select={"method": method, **own}).select.params
    assert config_with(select={"method": method, "min_cluster_size": 7, **own}).select.params == expected


@pytest.mark.parametrize("method", SELECTORS)
@pytest.mark.parametrize(("key", "nearest"), [("min_cluster_sice", "min_cluster_size"), ("bugdet", "budget")])
def test_an_unknown_key_is_refused_for_every_method(method: str, key: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_with(select={"method": method, key: 5, **OWN_KEYS.get(method, {})})
    assert f"select.{key}" in str(caught.value)
    if nearest in ("budget", *SELECTORS[method].param_names()):
        assert nearest in str(caught.value)


@pytest.mark.parametrize(
    "constraint", [{"shares": {"a": 0.5}}, {"caps": {"a": 1}}, {"keep": "a"}, {"drop": "a"}, {"budget": {"tokens": 9}}]
)
def test_official_learning_percentage_takes_no_constraints(constraint: dict[str, Any]) -> None:
    official = {"method": "learning_percentage", "compat": "official", "budget": "1%"}
    assert config_with(select=official).select.official_parts
    with pytest.raises(ConfigError, match="compat"):
        config_with(select={**official, **constraint})


@pytest.mark.parametrize("shares", [{"a": 0}, {"a": -0.5}, {"a": 1.5}, {"a": "many"}])
def test_shares_outside_0_to_1_are_refused(shares: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"select\.shares"):
        config_with(select={"shares": shares})


def test_every_unknown_key_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config_with(select={"bugdet": 5, "sede": 1})
    assert "select.bugdet" in str(caught.value) and "select.sede" in str(caught.value)


@pytest.mark.parametrize("value", [0, -3, "many", 2.5, None, [3]])
def test_an_invalid_value_of_an_own_key_is_refused_by_its_key(value: object) -> None:
    with pytest.raises(ConfigError, match="min_cluster_size"):
        config_with(select={"min_cluster_size": value})


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        config_with(select={"method": "best"})
    assert all(name in str(caught.value) for name in ("best", *SELECTORS))


@pytest.mark.parametrize("budget", [1, 10**9, "0.1%", "10%", "100%", {"target_tokens": 7}, {"tokens": 1}])
def test_budgets_that_are_accepted(budget: object) -> None:
    assert config_with(select={"budget": budget}).select.budget == budget


@pytest.mark.parametrize(
    "budget", [0, -1, 0.1, 5.0, True, "10", "ten", "x%", "0%", "100.1%", "-5%", "nan%", None, *TOKENS]
)
def test_budgets_that_are_refused(budget: object) -> None:
    with pytest.raises(ConfigError, match=r"select\.budget"):
        config_with(select={"budget": budget})


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"path": "a", "hub": "a/b"},
        {"path": "a", "source": {"field": "x", "name": "y"}},
        {"path": "a", "source": {"column": "x"}},
        {"path": "a", "format": "csv"},
        {"path": "a", "rows": 0},
    ],
)
def test_a_source_needs_one_origin_and_one_name(source: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.sources\.0"):
        config_with(data={"sources": [source]})


@pytest.mark.parametrize("grid", [{}, {"epoch_ends": False}, {"steps": 0}, {"fraction": 0}, {"fraction": 1.5}])
def test_checkpoints_need_a_grid(grid: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"proxy\.checkpoints"):
        config_with(proxy={"checkpoints": grid})


@pytest.mark.parametrize("grid", [{"epoch_ends": True}, {"steps": 5, "log": 3}, {"examples": 64}, {"fraction": 1}])
def test_any_grid_of_checkpoints_is_enough(grid: dict[str, Any]) -> None:
    dumped = config_with(proxy={"checkpoints": grid}).proxy.checkpoints.model_dump()
    assert {key: dumped[key] for key in grid} == grid


@pytest.mark.parametrize("tokenizer", [{"train": {"vocab_size": 299}}, {"train": {}}, {"size": 500}, 5])
def test_a_tokenizer_is_a_name_or_a_size_to_train(tokenizer: object) -> None:
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        config_with(data={"tokenizer": tokenizer})


@pytest.mark.parametrize("workers", ["auto", 1, 7, [1, 4]])
def test_numbers_of_workers(workers: object) -> None:
    assert config_with(resources={"score": {"workers": workers}}).resources.score.workers == workers


@pytest.mark.parametrize("workers", ["many", 0, [1], [1, 2, 3], [0, 2]])
def test_numbers_of_workers_that_are_refused(workers: object) -> None:
    with pytest.raises(ConfigError, match=r"resources\.score\.workers"):
        config_with(resources={"score": {"workers": workers}})


@pytest.mark.parametrize("select", [{}, {"method": "random", "min_cluster_size": 7}, {"min_cluster_size": 7}])
def test_a_config_equals_its_own_values_and_its_pickle(select: dict[str, Any]) -> None:
    config = config_with(select=select, proxy={"checkpoints": {"steps": 5}})
    assert make_config(config.model_dump(mode="json"), "again") == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert pickle.loads(pickle.dumps(config.select)).params == config.select.params


@pytest.mark.parametrize(
    ("checkpoints", "columns"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("trained", [1, 2, 3, 4]),
        ([10, 40], [1, 4]),
        ({"from": 0.5}, [2, 3, 4]),
        ({"to": 0.5, "every": 2}, [2]),
        ({"from": 0.0, "to": 1.0, "every": 1, "last": 3}, [2, 3, 4]),
    ],
)
def test_checkpoints_of_a_trajectory(checkpoints: object, columns: list[int]) -> None:
    config = config_with(cluster={"checkpoints": checkpoints})
    assert config.cluster.columns([0, 10, 20, 30, 40]) == columns
    assert make_config(config.model_dump(mode="json"), "again") == config


@pytest.mark.parametrize("checkpoints", [{"from": 0.6, "to": 0.5}, {"from": -1}, {"every": 0}, {"last": 0}, "some"])
def test_checkpoints_that_are_refused(checkpoints: object) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.checkpoints"):
        config_with(cluster={"checkpoints": checkpoints})


def test_checkpoints_that_were_not_recorded_are_refused_with_those_that_were() -> None:
    for checkpoints in ([5], {"from": 0.3, "to": 0.4}):
        with pytest.raises(ConfigError, match=r"cluster\.checkpoints.*20"):
            config_with(cluster={"checkpoints": checkpoints}).cluster.columns([0, 10, 20])


LOSSES = {"path": "losses.parquet", "values": "loss", "columns": {0: "a", 100: "b"}}


def import_with(score: dict[str, Any], **sections: dict[str, Any]) -> Config:
    values = {"root": "runs", "run": "test", "select": {"budget": 100}, "score": {"losses_from": LOSSES, **score}}
    return make_config({**values, **sections}, "test")


def test_imported_losses_need_neither_proxy_nor_data() -> None:
    config = import_with({"non_finite": "null"}, data={"root": "/rows"})
    assert config.without_data
    assert config.score.losses_from is not None and config.score.losses_from.columns == {0: "a", 100: "b"}
    assert make_config(config.model_dump(mode="json"), "again") == config
    assert not import_with({}, data={"sources": [{"path": "a.jsonl"}], "tokenizer": "gpt2"}).without_data


@pytest.mark.parametrize(
    ("score", "sections", "key"),
    [
        ({}, {"proxy": {"model": "gpt2"}}, "proxy"),
        ({"dtype": "bfloat16"}, {}, "score.dtype"),
        ({"statistics": ["el2n"]}, {}, "score.statistics"),
        ({"checkpoints": [0]}, {}, "score.checkpoints"),
        ({}, {"data": {"tokenizer": "gpt2"}}, "data.sources"),
        ({}, {"data": {"sources": [{"path": "a.jsonl"}]}}, "data.tokenizer"),
        ({"losses_from": {**LOSSES, "values": "nll_sum"}}, {}, "score.losses_from"),
        ({"losses_from": {**LOSSES, "values": "probability"}}, {}, "score.losses_from.values"),
    ],
)
def test_keys_that_do_not_fit_an_import_are_refused(score: dict[str, Any], sections: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        import_with(score, **sections)


@pytest.mark.parametrize("key", ["proxy.model", "data.sources", "data.tokenizer"])
def test_without_imports_data_and_a_proxy_are_needed(key: str) -> None:
    section, name = key.split(".")
    with pytest.raises(ConfigError, match=rf"{section}\.{name}: missing"):
        config_with(**{section: {name: None if name != "sources" else []}})


def test_a_config_is_frozen() -> None:
    config = config_with()
    for section, key in ((config, "run"), (config.cluster, "k"), (config.select, "budget")):
        with pytest.raises(ValidationError):
            setattr(section, key, 5)
    assert isinstance(config.select, Select)
