"""An artifact while it is being built: its lock, its execution record, and the order of files and manifest."""

from dataclasses import replace
from pathlib import Path

import pytest

from s2l_ray import storage
from s2l_ray.artifacts import lock as lock_module
from s2l_ray.artifacts.building import building
from s2l_ray.artifacts.execution import ScoreExecution
from s2l_ray.artifacts.lock import LOCK, live_holder
from s2l_ray.artifacts.manifest import MANIFEST, open_artifact
from s2l_ray.catalog.verify import verify_artifact
from s2l_ray.errors import LockedError, S2LError
from tests.support.sample_artifacts import begin, complete, execution, fingerprint, manifest, put_bytes

KIND = "trajectories"
NAME = fingerprint(1)


def uri_in(root: str) -> str:
    return f"{root}/{KIND}/{NAME}"


def test_an_artifact_is_complete_once_it_is_committed(place: str) -> None:
    uri = uri_in(place)
    with building(uri, KIND, "small") as one:
        holder = live_holder(uri)
        assert holder is not None and holder.job == "small"
        assert one.recorded_execution() is None
        assert one.begin(execution(KIND)) == execution(KIND) == one.recorded_execution()
        record = put_bytes(uri, "shard-00000.parquet", b"rows")
        put_bytes(uri, "losses/step-000000/shard-00000.parquet", b"unit")
        with pytest.raises(S2LError):
            open_artifact(uri)
        artifact = one.commit(manifest(KIND, NAME, [record]))
    assert open_artifact(uri) == artifact
    assert not storage.exists(f"{uri}/{LOCK}")


def test_leftovers_are_deleted_after_the_manifest_is_written(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, delete_folder = uri_in(place), storage.delete_folder
    deleted = []

    def delete_of_complete(target: str) -> None:
        assert storage.exists(f"{uri}/{MANIFEST}")
        deleted.append(target)
        delete_folder(target)

    monkeypatch.setattr(storage, "delete_folder", delete_of_complete)
    with building(uri, KIND, "small") as one:
        one.begin(execution(KIND))
        record = put_bytes(uri, "shard-00000.parquet", b"rows")
        put_bytes(uri, "work/cut-00000.json", b"{}")
        put_bytes(uri, "resume/a/state", b"weights")
        one.commit(manifest(KIND, NAME, [record]), leftovers=("work", "resume", "never-written"))
    assert f"{uri}/work" in deleted
    left = {entry.path for entry in storage.list_files(uri)}
    assert left == {MANIFEST, "execution.json", "shard-00000.parquet"}
    assert verify_artifact(uri).faults == ()


@pytest.mark.parametrize("error", [ValueError, S2LError, KeyboardInterrupt, SystemExit])
def test_the_lock_is_released_after_an_exception_and_the_rest_is_kept(place: str, error: type[BaseException]) -> None:
    uri = uri_in(place)
    with pytest.raises(error), building(uri, KIND, "small") as one:
        one.begin(execution(KIND))
        put_bytes(uri, "losses/step-000000/shard-00000.parquet", b"unit")
        raise error()
    left = {entry.path for entry in storage.list_files(uri)}
    assert left == {"execution.json", "losses/step-000000/shard-00000.parquet"}
    with building(uri, KIND, "small") as again:
        assert again.recorded_execution() == execution(KIND)
        later = replace(execution(KIND), settings=ScoreExecution(1, "padded", 1, 0.0))
        assert again.begin(later) == execution(KIND)


def test_a_resume_under_other_library_versions_is_recorded_once(place: str) -> None:
    uri, old = uri_in(place), execution(KIND)
    newer, newest = (old.libraries | {"torch": version} for version in ("2.14.0", "2.15.0"))
    with building(uri, KIND, "small") as one:
        one.begin(old)
        assert one.begin(replace(old, libraries=newer)).resumed_with == [newer]
        assert one.begin(replace(old, libraries=newer)).resumed_with == [newer]
        last = one.begin(replace(old, libraries=newest))
        assert last == replace(old, resumed_with=[newer, newest]) == one.recorded_execution()
        one.commit(replace(manifest(KIND, NAME, []), execution=last))
    assert open_artifact(uri).manifest.execution == last


def test_a_failed_manifest_write_leaves_the_artifact_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is the last file: whichever write fails, nothing opens and no leftover is deleted."""
    uri, write_bytes = uri_in(str(tmp_path)), storage.write_bytes

    def fail_at_the_manifest(target: str, data: bytes) -> None:
        if target.endswith(MANIFEST):
            raise OSError("disk full")
        write_bytes(target, data)

    monkeypatch.setattr(storage, "write_bytes", fail_at_the_manifest)
    with pytest.raises(OSError, match="disk full"), building(uri, KIND, "small") as one:
        one.begin(execution(KIND))
        put_bytes(uri, "work/cut-00000.json", b"{}")
        one.commit(manifest(KIND, NAME, [put_bytes(uri, "shard-00000.parquet", b"rows")]), leftovers=("work",))
    assert {entry.path for entry in storage.list_files(uri)} == {
        "execution.json",
        "shard-00000.parquet",
        "work/cut-00000.json",
    }


def test_a_reopened_artifact_keeps_its_units_and_its_execution_record(place: str) -> None:
    artifact = complete(place, KIND, NAME, {"shard-00000.parquet": b"rows", "losses/a.parquet": b"unit"})
    with building(artifact.uri, KIND, "small") as one:
        one.reopen()
        with pytest.raises(S2LError):
            open_artifact(artifact.uri)
        assert one.recorded_execution() == execution(KIND)
        left = {entry.path for entry in storage.list_files(artifact.uri)} - {LOCK}
        assert left == {"execution.json", "shard-00000.parquet", "losses/a.parquet"}
        committed = one.commit(replace(artifact.manifest, version=2))
    assert open_artifact(artifact.uri) == committed


def test_a_second_driver_is_refused_and_harms_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 0.05)
    uri = begin(place, KIND, NAME)
    with building(uri, KIND, "first") as one:
        with pytest.raises(LockedError, match="first"), building(uri, KIND, "second"):
            pytest.fail("two drivers build one artifact")
        assert storage.exists(f"{uri}/{LOCK}")
        one.commit(manifest(KIND, NAME, []))


def test_a_driver_that_lost_its_lock_commits_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(lock_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 3.0)  # too late for the other driver
    uri = begin(place, KIND, NAME)
    with building(uri, KIND, "first") as first, building(uri, KIND, "second") as second:
        with pytest.raises(LockedError):
            first.commit(manifest(KIND, NAME, []), leftovers=("work",))
        assert not storage.exists(f"{uri}/{MANIFEST}")
        second.commit(manifest(KIND, NAME, []))
    assert open_artifact(uri).manifest.fingerprint == NAME
