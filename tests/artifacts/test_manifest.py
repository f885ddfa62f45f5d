"""Manifests, facts and execution records: written to JSON and read back, damaged, or of another version."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from s2l_ray import storage
from s2l_ray.artifacts.execution import EXECUTION, EXECUTIONS, execution_from_json, read_execution
from s2l_ray.artifacts.facts import FACTS, ClustersFacts, DatasetFacts
from s2l_ray.artifacts.fingerprint import from_json, seal, unseal
from s2l_ray.artifacts.manifest import MANIFEST, open_artifact, write_manifest
from s2l_ray.artifacts.schemas import KINDS, KINDS_WITH_TEXT, shard_path, tokens_path
from s2l_ray.errors import DamagedError, S2LError
from tests.support import sample_artifacts
from tests.support.sample_artifacts import complete, execution, fingerprint, manifest, put_bytes


def through_json(values: dict[str, Any]) -> dict[str, Any]:
    restored: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return restored


def test_every_kind_has_facts_and_an_execution_record() -> None:
    assert set(FACTS) == set(EXECUTIONS) == set(KINDS)
    assert set(sample_artifacts.FACTS) == set(sample_artifacts.SETTINGS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_records_of_every_kind_are_read_back_equal(kind: str) -> None:
    facts, record = sample_artifacts.FACTS[kind], execution(kind)
    assert from_json(FACTS[kind], through_json(dataclasses.asdict(facts))) == facts
    assert execution_from_json(kind, through_json(dataclasses.asdict(record))) == record


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_is_read_back_equal(place: str, kind: str) -> None:
    inputs = {"dataset": fingerprint(7)}
    path = tokens_path if kind in KINDS_WITH_TEXT else shard_path
    contents = {path(100_000): b"last", path(99_999): b"one", path(0): b"zero", "notes/a.json": b"{}"}
    written = complete(place, kind, fingerprint(1), contents, inputs)
    read = open_artifact(f"{place}/{kind}/{fingerprint(1)}/")
    assert read == written
    expected = manifest(kind, fingerprint(1), read.manifest.files, inputs)
    assert read.manifest == expected
    assert [record.path for record in read.files()] == sorted(contents)
    assert [record.path for record in read.shards()] == [path(0), path(99_999), path(100_000)]
    assert read.facts(FACTS[kind]) == sample_artifacts.FACTS[kind]
    json.dumps(dataclasses.asdict(read.manifest), allow_nan=False)


def test_facts_of_another_kind_are_refused(tmp_path: Path) -> None:
    artifact = complete(str(tmp_path), "dataset", fingerprint(1))
    assert artifact.facts(DatasetFacts).ok == 29
    with pytest.raises(TypeError):
        artifact.facts(ClustersFacts)


def test_an_artifact_opens_its_inputs(place: str) -> None:
    dataset = complete(place, "dataset", fingerprint(1))
    subset = complete(place, "subset", fingerprint(2), inputs={"dataset": fingerprint(1), "clusters": fingerprint(3)})
    assert subset.input("dataset") == dataset
    with pytest.raises(S2LError, match="checkpoints"):
        subset.input("checkpoints")
    with pytest.raises(S2LError, match=f"clusters/{fingerprint(3)}"):
        subset.input("clusters")


def test_a_relative_uri_finds_the_same_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(str(tmp_path), "dataset", fingerprint(1))
    complete(str(tmp_path), "subset", fingerprint(2), inputs={"dataset": fingerprint(1)})
    monkeypatch.chdir(tmp_path / "subset" / fingerprint(2))
    for uri in (".", f"../../subset/{fingerprint(2)}"):
        assert open_artifact(uri).input("dataset").manifest.fingerprint == fingerprint(1)


# A sealed manifest whose content this version does not understand was written by another version.


def change_manifest(uri: str, **changes: Any) -> None:
    path = storage.join(uri, MANIFEST)
    values = unseal(storage.read_bytes(path), path)
    storage.write_bytes(path, seal({**values, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "embeddings"},
        {"owner": "someone"},
        {"facts": {"rows": 30}},
        {"facts": {**dataclasses.asdict(sample_artifacts.FACTS["dataset"]), "tokens": "many"}},
        {"counts": {"read": 32, "kept": 30, "set_aside": {}}},
        {"execution": {"range_bytes": 1000}},
        {"files": [{"path": "shard-00000.parquet"}]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_manifest_of_another_version_is_an_explained_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    uri = complete(str(tmp_path), "dataset", fingerprint(1)).uri
    change_manifest(uri, **changes)
    with pytest.raises(S2LError, match="version") as caught:
        open_artifact(uri)
    assert uri in str(caught.value) and not isinstance(caught.value, DamagedError)


def test_a_manifest_without_a_field_is_of_another_version(tmp_path: Path) -> None:
    uri = complete(str(tmp_path), "dataset", fingerprint(1)).uri
    path = storage.join(uri, MANIFEST)
    for name in (field.name for field in dataclasses.fields(manifest("dataset", "", []))):
        values = unseal(storage.read_bytes(path), path)
        removed = values.pop(name)
        storage.write_bytes(path, seal(values))
        if name in ("timings", "provenance", "columns"):  # have defaults
            open_artifact(uri)
        else:
            with pytest.raises(S2LError, match="version"):
                open_artifact(uri)
        storage.write_bytes(path, seal({**values, name: removed}))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"kind": "dataset"}\n'])
def test_a_manifest_that_is_not_sealed_is_damaged(tmp_path: Path, data: bytes) -> None:
    uri = complete(str(tmp_path), "dataset", fingerprint(1)).uri
    storage.write_bytes(storage.join(uri, MANIFEST), data)
    with pytest.raises(DamagedError, match=MANIFEST):
        open_artifact(uri)


def test_an_artifact_without_a_manifest_does_not_open(place: str) -> None:
    for uri in (sample_artifacts.begin(place, "dataset", fingerprint(1)), f"{place}/dataset/{fingerprint(2)}"):
        with pytest.raises(S2LError, match=re.escape(uri)):
            open_artifact(uri)


def test_a_file_that_the_manifest_does_not_list_is_an_error(tmp_path: Path) -> None:
    artifact = complete(str(tmp_path), "dataset", fingerprint(1))
    put_bytes(artifact.uri, "shard-00009.parquet", b"unlisted")
    with pytest.raises(S2LError, match=r"shard-00009\.parquet"):
        artifact.read_file("shard-00009.parquet")


def test_a_manifest_holds_no_nan(tmp_path: Path) -> None:
    facts = dataclasses.replace(sample_artifacts.FACTS["clusters"], inertia=float("nan"))
    with pytest.raises(ValueError):
        write_manifest(str(tmp_path), dataclasses.replace(manifest("clusters", fingerprint(1), []), facts=facts))
    assert not storage.exists(f"{tmp_path}/{MANIFEST}")


# execution records


def test_a_damaged_execution_record_is_an_error(tmp_path: Path) -> None:
    uri = sample_artifacts.begin(str(tmp_path), "trajectories", fingerprint(1))
    path = storage.join(uri, EXECUTION)
    storage.write_bytes(path, storage.read_bytes(path).replace(b"4096", b"8192"))
    with pytest.raises(DamagedError, match=EXECUTION):
        read_execution(uri, "trajectories")


@pytest.mark.parametrize("values", [{"range_bytes": 9}, {"settings": {"range_bytes": 9}, "libraries": {}}], ids=str)
def test_an_execution_record_of_another_version_is_an_explained_error(tmp_path: Path, values: dict[str, Any]) -> None:
    uri = sample_artifacts.begin(str(tmp_path), "trajectories", fingerprint(1))
    storage.write_bytes(storage.join(uri, EXECUTION), seal(values))
    with pytest.raises(S2LError, match="version"):
        read_execution(uri, "trajectories")
