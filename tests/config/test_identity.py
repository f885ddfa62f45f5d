"""Which keys of a job decide which artifacts: every key is changed on its own, and fingerprints are compared."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.facts import CheckpointsFacts
from s2l_ray.artifacts.fingerprint import flatten
from s2l_ray.config.identity import dataset_identity, local_folder, source_spec, subset_identity
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config, Source
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import plan
from s2l_ray.sources import digests
from tests.support.pool_artifacts import write_artifact

Changed = Callable[[Mapping[str, object]], set[str]]

COMMIT, OTHER_COMMIT = "0" * 40, "1" * 40
# What a job of the method s2l builds, where trajectories are clustered.
BUILT = ("dataset", "checkpoints", "trajectories", "clusters", "subset", "target", "evaluation")
# Each key with another value than in `values`. A key decides the first kind built from its section, and all that is
# built from that.
DATASET = {
    "data.sources.0.format": "prompt_response",
    "data.sources.0.fields": {"prompt": "question"},
    "data.sources.0.source": {"name": "other"},
    "data.sources.0.only": {"level": "2"},
    "data.sources.0.rows": 2,
    "data.tokenizer": {"train": {"vocab_size": 400}},
    "data.max_length": 64,
    "data.duplicates": "keep",
    "data.too_long": "drop",
    "data.shard_size": 9,
    "data.limit": "50%",
    "data.exclude": ["rows/a.jsonl"],
    "data.held_out": {"per_source": 3},
    "data.seed": 1,
    "data.sources.0.roles": {"doctor": "user"},
    "data.date": "2025-01-01",
    "data.chat": "whole",
}
CHECKPOINTS = {
    "proxy.model": {"architecture": "gpt_neox", "hidden_size": 64},
    "proxy.epochs": 4,
    "proxy.learning_rate": 1e-3,
    "proxy.warmup_ratio": 0.5,
    "proxy.weight_decay": 0.1,
    "proxy.max_grad_norm": 0.5,
    "proxy.batch_size": 2,
    "proxy.precision": "float32",
    "proxy.checkpoints": {"steps": 3},
    "proxy.train_examples": 2,
    "proxy.seed": 1,
}
TRAJECTORIES = {
    "score.checkpoints": [0],
    "score.dtype": "bfloat16",
    "score.statistics": ["loss", "el2n"],
    "score.non_finite": "null",
}
CLUSTERS = {
    "cluster.k": 7,
    "cluster.sample_per_cluster": 9,
    "cluster.sample_iterations": 9,
    "cluster.iterations": 9,
    "cluster.restarts": 9,
    "cluster.group_by": "none",
    "cluster.checkpoints": "all",
    "cluster.max_fit_rows": 9,
    "cluster.seed": 1,
}
# of a job that clusters embeddings
EMBEDDED = {"cluster.features": "embeddings", "embed.model": "model"}
EMBEDDINGS = {"embed.model": "tokenizer", "embed.text": "prompt", "embed.max_length": 64}
SUBSET = {
    "select.method": "source_balanced",
    "select.budget": "50%",
    "select.seed": 1,
    "select.min_cluster_size": 1,
    "select.compat": "official",
    "select.shares": {"rows": 0.5},
    "select.caps": {"rows": 1},
    "select.keep": ["rows/a.jsonl"],
    "select.drop": ["rows/b.jsonl"],
}
TARGET = {
    "target.model": {"architecture": "gpt_neox", "hidden_size": 64},
    "target.rows": "pool",
    "target.compute": {"steps": 3},
    "target.epochs": 4,
    "target.learning_rate": 1e-3,
    "target.warmup_ratio": 0.5,
    "target.weight_decay": 0.1,
    "target.max_grad_norm": 0.5,
    "target.batch_size": 2,
    "target.precision": "float32",
    "target.seed": 1,
    "target.lora": {"r": 4},
}
EVALUATION = {"evaluate.dtype": "bfloat16"}
# The keys of tasks decide an evaluation that has any.
ASKED = {"evaluate.tasks": [{"name": "sums", "path": "sums.jsonl"}]}
BERT = {"evaluate.bert_model": "model"}
ANSWERS = {
    "evaluate.loss": False,
    "evaluate.dtype": "bfloat16",
    "evaluate.template": "none",
    "evaluate.limit": 5,
    "evaluate.temperature": 0.5,
    "evaluate.max_new_tokens": 9,
    "evaluate.stop": ["Question:"],
    "evaluate.seed": 1,
    "evaluate.tasks.0.name": "other",
    "evaluate.tasks.0.path": "rows/a.jsonl",
    "evaluate.tasks.0.instruction": "{problem}",
    "evaluate.tasks.0.input": "{context}",
    "evaluate.tasks.0.reference": "output",
    "evaluate.tasks.0.answer_type": "text",
    "evaluate.tasks.0.metrics": ["bleu"],
    "evaluate.tasks.0.programs": False,
}
NOT_IDENTITY = {
    "root": "elsewhere",
    "run": "other",
    "track": ["mlflow"],
    "prices.gpu_hour": 2.5,
    "prices.cpu_hour": 0.5,
    "prices.storage_gb_month": 0.1,
    "estimate.rows": 9,
    "estimate.tokens_per_row": 9.5,
    "estimate.questions": 9,
    "estimate.models": {"owner/model": {"parameters": 9, "layers": 1, "hidden_size": 1, "vocab_size": 9}},
    "estimate.gpu": {"memory_gb": 9, "tflops": 9},
    "resources.prepare.workers": 2,
    "resources.prepare.range_bytes": 99,
    "resources.train.workers": 2,
    "resources.train.gpus": 1,
    "resources.train.threads": 2,
    "resources.train.micro_batch": 1,
    "resources.train.save_minutes": 1,
    "resources.train.strategy": "fsdp",
    "resources.train.attention": "padded",
    "resources.train.gradient_checkpointing": True,
    "resources.train.retries": 1,
    "resources.embed.workers": 2,
    "resources.embed.gpus": 1,
    "resources.embed.threads": 2,
    "resources.embed.rows_per_batch": 9,
    "resources.score.workers": [1, 2],
    "resources.score.gpus": 1,
    "resources.score.threads": 2,
    "resources.score.tokens_per_batch": 9,
    "resources.score.attention": "padded",
    "resources.score.cache_gb": 1,
    "resources.score.allow_failures": 2,
    "resources.evaluate.workers": 2,
    "resources.evaluate.gpus": 1,
    "resources.evaluate.threads": 2,
    "resources.evaluate.tokens_per_batch": 9,
    "resources.evaluate.attention": "padded",
    "resources.evaluate.cache_gb": 1,
    "resources.evaluate.engine": "vllm",
    "resources.evaluate.prompts_per_batch": 9,
    "resources.evaluate.prompts_per_unit": 9,
    "resources.cluster.backend": "torch",
    "resources.cluster.workers": 2,
    "resources.wait_minutes": 1,
    "resources.retries": 1,
    "resources.stall_minutes": 1,
}
# Addresses, revisions, which only names of the hub have, and imports; each has a test of its own.
OTHERS = {
    "data.root",
    "data.sources.0.path",
    "data.sources.0.hub",
    "data.sources.0.config",
    "data.sources.0.split",
    "data.sources.0.revision",
    "data.tokenizer_revision",
    "proxy.revision",
    "embed.revision",
    "cluster.features",
    "target.revision",
    "target.tokenizer",
    "target.tokenizer_revision",
    "score.losses_from",
    "proxy.checkpoints_from",
    "proxy.train_on",
    "evaluate.files",
    "evaluate.samples",
    "evaluate.bert_model",
    "evaluate.bert_layer",
}


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """A job over two files of rows, with a local tokenizer and a local model."""
    data = tmp_path / "data"
    for name in ("rows", "tokenizer", "model"):
        (data / name).mkdir(parents=True)
    for name in ("a", "b"):
        row = {"instruction": f"Question {name}?", "output": "Answer."}
        (data / "rows" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (data / "sums.jsonl").write_text('{"question": "1 + 1?", "answer": 2}\n')
    (data / "tokenizer" / "tokenizer.json").write_text("{}")
    (data / "model" / "config.json").write_text('{"vocab_size": 9}')
    return {
        "root": str(tmp_path / "root"),
        "run": "test",
        "data": {"root": str(data), "sources": [{"path": "rows"}], "tokenizer": "tokenizer"},
        "proxy": {"model": "model"},
        "select": {"budget": 1},
        "target": {"model": "model"},
    }


def config_of(values: dict[str, Any], changes: Mapping[str, object]) -> Config:
    changed = json.loads(json.dumps(values))
    for key, value in changes.items():
        *sections, last = key.split(".")
        parent = changed
        for section in sections:
            parent = parent[int(section)] if section.isdigit() else parent.setdefault(section, {})
        parent[last] = json.loads(json.dumps(value))
    return make_config(changed, "test")


def fingerprints(values: dict[str, Any], changes: Mapping[str, object] | None = None) -> dict[str, str]:
    return plan(config_of(values, changes or {}), "evaluation").fingerprints


@pytest.fixture
def changed(values: dict[str, Any]) -> Changed:
    """The kinds whose fingerprint changes with some keys of the job. A kind that is no longer built counts."""
    before = fingerprints(values)
    assert tuple(before) == BUILT

    def kinds(changes: Mapping[str, object]) -> set[str]:
        after = fingerprints(values, changes)
        return {kind for kind in before if after.get(kind) != before[kind]}

    return kinds


@pytest.mark.parametrize(
    ("keys", "kinds"),
    [
        (DATASET, set(BUILT)),
        (CHECKPOINTS, set(BUILT[1:])),
        (TRAJECTORIES, set(BUILT[2:])),
        (CLUSTERS, set(BUILT[3:])),
        (SUBSET, {"subset", "target", "evaluation"}),
        (TARGET, {"target", "evaluation"}),
        (EVALUATION, {"evaluation"}),
        (NOT_IDENTITY, set()),
    ],
    ids=["data", "proxy", "score", "cluster", "select", "target", "evaluate", "others"],
)
def test_a_key_decides_its_kind_and_what_is_built_from_it(
    values: dict[str, Any], changed: Changed, keys: dict[str, object], kinds: set[str]
) -> None:
    before = flatten(config_of(values, {}).model_dump(mode="json"))
    for key, value in keys.items():
        after = flatten(config_of(values, {key: value}).model_dump(mode="json"))
        assert after != before, f"{key} does not change the job"
        # Another method needs neither checkpoints nor clusters, and a target of the whole pool no subset.
        expected = set(BUILT[1:]) if key in ("select.method", "target.rows") else kinds
        assert changed({key: value}) == expected, key


def test_embeddings_are_decided_by_data_and_their_own_keys(values: dict[str, Any]) -> None:
    before = fingerprints(values, EMBEDDED)
    built = ["dataset", "embeddings", "clusters", "subset", "target", "evaluation"]
    assert list(before) == built

    def changed(changes: Mapping[str, object]) -> set[str]:
        after = fingerprints(values, {**EMBEDDED, **changes})
        return {kind for kind in built if after[kind] != before[kind]}

    for key, value in EMBEDDINGS.items():
        assert changed({key: value}) == {"embeddings", "clusters", "subset", "target", "evaluation"}, key
    assert changed({"data.max_length": 64}) == set(built)
    assert changed({"cluster.k": 7}) == {"clusters", "subset", "target", "evaluation"}
    for key, value in {**CHECKPOINTS, **TRAJECTORIES, **NOT_IDENTITY, "cluster.checkpoints": "all"}.items():
        assert changed({key: value}) == set(), key


def test_tasks_are_decided_by_their_questions_and_their_keys(values: dict[str, Any], tmp_path: Path) -> None:
    before = fingerprints(values, ASKED)

    def changed(changes: Mapping[str, object]) -> set[str]:
        after = fingerprints(values, {**ASKED, **changes})
        return {kind for kind in before if after[kind] != before[kind]}

    for key, value in ANSWERS.items():
        assert changed({key: value}) == {"evaluation"}, key
    warm = {**ASKED, "evaluate.temperature": 0.5}
    assert (
        fingerprints(values, {**warm, "evaluate.samples": 4})["evaluation"] != fingerprints(values, warm)["evaluation"]
    )
    for key, value in NOT_IDENTITY.items():
        assert changed({key: value}) == set(), key
    assert fingerprints(values, {"evaluate.tasks": ["sums"], "evaluate.files": {"sums": "sums.jsonl"}}) == before
    (tmp_path / "data" / "sums.jsonl").write_text('{"question": "1 + 2?", "answer": 3}\n')
    assert changed({}) == {"evaluation"}


def test_without_tasks_their_keys_decide_nothing(changed: Changed) -> None:
    assert changed({"evaluate.limit": 5, "evaluate.max_new_tokens": 9, "evaluate.template": "none"}) == set()


def test_the_model_of_bert_score_decides_tasks_that_compute_it(values: dict[str, Any]) -> None:
    scored = {**ASKED, "evaluate.tasks.0.metrics": ["rouge_l", "bert_score"]}
    compared = [
        fingerprints(values, {**scored, **own})["evaluation"] for own in ({}, BERT, BERT | {"evaluate.bert_layer": 3})
    ]
    assert len(set(compared)) == 3
    assert fingerprints(values, {**ASKED, **BERT}) == fingerprints(values, ASKED)


def test_every_key_of_a_job_is_tested(values: dict[str, Any]) -> None:
    known = {
        **DATASET,
        **EMBEDDINGS,
        **CHECKPOINTS,
        **TRAJECTORIES,
        **CLUSTERS,
        **SUBSET,
        **TARGET,
        **EVALUATION,
        **ASKED,
        **ANSWERS,
        **NOT_IDENTITY,
    }.keys() | OTHERS
    keys = flatten(config_of(values, {}).model_dump(mode="json"))
    untested = {key for key in keys if not any(key == name or key.startswith(f"{name}.") for name in known)}
    assert not untested


def test_a_job_without_a_proxy_depends_on_data_and_select_alone(values: dict[str, Any]) -> None:
    random = {"select.method": "random"}
    before = fingerprints(values, random)
    assert list(before) == ["dataset", "subset", "target", "evaluation"]
    for key, value in {**EMBEDDINGS, **CHECKPOINTS, **TRAJECTORIES, **CLUSTERS, **NOT_IDENTITY}.items():
        assert fingerprints(values, {**random, key: value}) == before, key
    for key in ("select.budget", "select.seed"):
        after = fingerprints(values, {**random, key: SUBSET[key]})
        assert after["dataset"] == before["dataset"] and after["subset"] != before["subset"]


def test_only_the_methods_own_keys_are_identity(values: dict[str, Any], changed: Changed) -> None:
    for method in ("random", "source_balanced"):
        own = {"select.method": method}
        assert fingerprints(values, {**own, "select.min_cluster_size": 9}) == fingerprints(values, own)
    assert changed({"select.min_cluster_size": 9}) == {"subset", "target", "evaluation"}
    assert subset_identity(config_of(values, {"select.method": "random", "select.min_cluster_size": 9})) == {
        "select": {"method": "random", "budget": 1, "seed": 0}
    }


def test_a_default_equals_the_same_value_in_the_job(changed: Changed) -> None:
    defaults = {"select.min_cluster_size": 3, "select.seed": 0, "cluster.k": 100, "data.duplicates": "drop"}
    assert changed(defaults) == set()


def test_data_that_moved_keep_their_fingerprints(values: dict[str, Any], changed: Changed, tmp_path: Path) -> None:
    shutil.move(tmp_path / "data", tmp_path / "moved")
    assert changed({"data.root": str(tmp_path / "moved")}) == set()
    assert changed({"data.root": str(tmp_path), "data.sources.0.path": "moved/rows"} | _absolute(tmp_path)) == set()


def _absolute(folder: Path) -> dict[str, object]:
    model = str(folder / "moved" / "model")
    return {"data.tokenizer": str(folder / "moved" / "tokenizer"), "proxy.model": model, "target.model": model}


@pytest.mark.parametrize(
    ("file", "kinds"),
    [("rows/b.jsonl", set(BUILT)), ("tokenizer/tokenizer.json", set(BUILT)), ("model/config.json", set(BUILT[1:]))],
)
def test_the_content_of_files_is_identity_and_their_times_are_not(
    changed: Changed, tmp_path: Path, file: str, kinds: set[str]
) -> None:
    path = tmp_path / "data" / file
    os.utime(path, (1, 1))
    assert changed({}) == set()
    path.write_text(path.read_text().replace("9", "8").replace("Question", "question").replace("{}", "{ }"))
    assert changed({}) == kinds


def test_a_new_file_of_a_folder_is_identity(changed: Changed, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "data" / "rows" / "a.jsonl", tmp_path / "data" / "rows" / "c.jsonl")
    assert changed({}) == set(BUILT)


@pytest.mark.parametrize("sources", [[{"path": "rows"}], [{"path": "rows/a.jsonl", "source": {"name": "a"}}]])
def test_names_of_files_are_not_identity(values: dict[str, Any], tmp_path: Path, sources: list[dict[str, Any]]) -> None:
    before = fingerprints(values, {"data.sources": sources})
    (tmp_path / "data" / "rows" / "a.jsonl").rename(tmp_path / "data" / "rows" / "aa.jsonl")
    renamed = [{**source, "path": source["path"].replace("a.jsonl", "aa.jsonl")} for source in sources]
    assert fingerprints(values, {"data.sources": renamed}) == before


def test_content_edited_with_its_size_and_time_kept_is_noticed(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cp -p` and `rsync -t` write it, although digests of files are cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    path = tmp_path / "data" / "rows" / "a.jsonl"
    before, status = fingerprints(values), path.stat()
    assert (tmp_path / "cache").exists()
    path.write_text(path.read_text().replace("Question", "question"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert fingerprints(values)["dataset"] != before["dataset"]


@pytest.mark.parametrize(
    ("key", "one", "same"),
    [
        ("score.checkpoints", [0, 4, 8], [8, 0, 4, 4]),
        ("score.statistics", ["loss", "mean_entropy", "el2n"], ["el2n", "mean_entropy"]),
        ("cluster.checkpoints", [0, 4, 8], [8, 4, 0]),
        ("select.budget", "10%", "10.0%"),
        ("data.limit", "50%", "50.00%"),
        ("proxy.revision", None, "abc"),
        ("data.sources.0.revision", None, "abc"),
        ("data.sources.0.only", {"level": "2"}, {"level": ["2"]}),
        ("data.sources.0.only", {"level": ["1", "2"]}, {"level": ["2", "1", "2"]}),
    ],
)
def test_one_meaning_has_one_fingerprint(values: dict[str, Any], key: str, one: object, same: object) -> None:
    assert fingerprints(values, {key: one}) == fingerprints(values, {key: same})


@pytest.mark.parametrize("model", [{"architecture": "gpt_neox"}, "model"])
@pytest.mark.parametrize("section", ["proxy", "target"])
def test_a_revision_without_a_hub_is_not_identity(values: dict[str, Any], section: str, model: object) -> None:
    own = {f"{section}.model": model}
    assert fingerprints(values, own) == fingerprints(values, {**own, f"{section}.revision": "abc"})


@pytest.mark.parametrize("key", ["score.checkpoints", "cluster.checkpoints"])
def test_a_list_of_no_checkpoints_is_refused(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        config_of(values, {key: []})


def test_the_order_of_sources_is_identity(values: dict[str, Any]) -> None:
    sources = [{"path": "rows/a.jsonl"}, {"path": "rows/b.jsonl"}]
    one = fingerprints(values, {"data.sources": sources})
    assert fingerprints(values, {"data.sources": sources[::-1]})["dataset"] != one["dataset"]


def test_the_name_of_a_source_is_identity(values: dict[str, Any], tmp_path: Path) -> None:
    """Without one, it is the name of the file or folder; so a renamed source with its old name is the same."""
    before = fingerprints(values)
    (tmp_path / "data" / "rows").rename(tmp_path / "data" / "renamed")
    assert fingerprints(values, {"data.sources": [{"path": "renamed"}]})["dataset"] != before["dataset"]
    named = [{"path": "renamed", "source": {"name": "rows"}}]
    assert fingerprints(values, {"data.sources": named}) == before


def test_revisions_of_the_hub_are_identity(values: dict[str, Any]) -> None:
    hub = {"data.tokenizer": "owner/tokenizer", "proxy.model": "owner/model", "target.model": "owner/model"}
    hub |= dict.fromkeys(("data.tokenizer_revision", "proxy.revision", "target.revision"), COMMIT)
    hub_source = {"data.sources": [{"hub": "owner/rows", "split": "train", "revision": COMMIT}]}
    before = fingerprints(values, {**hub, **hub_source})
    for changes, first in (
        ({"data.tokenizer_revision": OTHER_COMMIT}, "dataset"),
        ({"data.sources": [{"hub": "owner/rows", "split": "train", "revision": OTHER_COMMIT}]}, "dataset"),
        ({"data.sources": [{"hub": "owner/rows", "split": "test", "revision": COMMIT}]}, "dataset"),
        ({"data.sources": [{"hub": "owner/rows", "config": "a", "split": "train", "revision": COMMIT}]}, "dataset"),
        ({"proxy.revision": OTHER_COMMIT}, "checkpoints"),
        ({"target.revision": OTHER_COMMIT}, "target"),
    ):
        after = fingerprints(values, {**hub, **hub_source, **changes})
        assert {kind for kind in BUILT if after[kind] != before[kind]} == set(BUILT[BUILT.index(first) :])


def test_what_is_known_of_imported_checkpoints_is_identity(values: dict[str, Any], tmp_path: Path) -> None:
    """The epoch decides which checkpoint ends the first one."""
    uris = [str(tmp_path / f"checkpoints-{epoch}") for epoch in (None, 1.0)]
    for uri, epoch in zip(uris, (None, 1.0), strict=True):
        write_artifact(uri, "checkpoints", [], CheckpointsFacts((CheckpointRecord(1, epoch),)))
    first, second = (fingerprints(values, {"proxy": {"checkpoints_from": uri}}) for uri in uris)
    assert first["checkpoints"] != second["checkpoints"]


def test_a_missing_file_is_refused_by_its_name(values: dict[str, Any]) -> None:
    for key, value in (
        ("data.sources", [{"path": "none.jsonl"}]),
        ("data.tokenizer", "./none"),
        ("proxy.model", "./none"),
        ("target.model", "./none"),
    ):
        with pytest.raises(ConfigError, match="none"):
            plan(config_of(values, {key: value}), "target")


def test_a_name_is_a_folder_or_a_hub_id(values: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(values, {})
    assert local_folder(config, "model", "proxy.model") == tmp_path / "data" / "model"
    assert local_folder(config, str(tmp_path), "proxy.model") == tmp_path
    assert local_folder(config, "owner/name", "proxy.model") is None
    for name in ("./none", "/none", "~/none-of-this", "a/b/c"):
        with pytest.raises(ConfigError, match=r"proxy\.model"):
            local_folder(config, name, "proxy.model")


def test_identities_hold_no_address(values: dict[str, Any], tmp_path: Path) -> None:
    assert str(tmp_path) not in json.dumps(dataset_identity(config_of(values, {})))


def test_a_source_spec_has_every_field_of_the_source() -> None:
    given = {"path": "a", "source": {"field": "topic"}, "only": {"level": ["1", "2"]}}
    spec = source_spec(Source.model_validate(given))
    assert (spec.path, spec.source, spec.only) == ("a", {"field": "topic"}, {"level": ["1", "2"]})
    hub = source_spec(Source(hub="a/b", split="train", revision="c"))
    assert (hub.hub, hub.split, hub.revision, hub.path, hub.source) == ("a/b", "train", "c", None, None)
