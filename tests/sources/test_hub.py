"""Models and data sets of the hub, against a server on this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.sources.hub import find_commit, hub_dataset, model_folder
from tests.support.hub_server import TOKEN, Hub

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"}
PATTERNS = ["*.json", "*.safetensors"]

pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files of the hub and of this node in a folder of the test."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("s2l_ray.sources.hub.cache_folder", lambda: tmp_path)
    yield
    hub_dataset.cache_clear()


def rows(word: str, count: int = 3) -> bytes:
    return "".join(json.dumps({"prompt": f"{word} {n}", "response": word}) + "\n" for n in range(count)).encode()


def first_prompts(name: str, commit: str, split: str = "train", config: str | None = None) -> list[str]:
    """The prompts of a data set, as another process would read them."""
    hub_dataset.cache_clear()
    return list(hub_dataset(name, config, commit, split)["prompt"])


def test_a_revision_is_a_branch_a_tag_or_the_default_branch(hub: Hub) -> None:
    first = hub.push("models/owner/tiny", FILES, branch="v1")
    second = hub.push("models/owner/tiny", {**FILES, "model.safetensors": b"other"})
    assert [find_commit("model", "owner/tiny", name) for name in (None, "main", "v1")] == [second, second, first]


def test_a_revision_may_have_slashes(hub: Hub) -> None:
    commit = hub.push("datasets/owner/rows", {"train.jsonl": rows("a")}, branch="refs/convert/parquet")
    assert find_commit("dataset", "owner/rows", "refs/convert/parquet") == commit


def test_what_the_hub_does_not_have_is_refused_by_name(hub: Hub) -> None:
    hub.push("datasets/owner/rows", {"train.jsonl": rows("a")})
    with pytest.raises(ConfigError, match=r"owner/none.*dataset"):
        find_commit("dataset", "owner/none", None)
    with pytest.raises(ConfigError, match=r"owner/rows.*v9"):
        find_commit("dataset", "owner/rows", "v9")


def test_a_gated_repository_needs_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.push("models/owner/gated", FILES, gated=True)
    with pytest.raises(ConfigError, match=r"owner/gated.*HF_TOKEN"):
        find_commit("model", "owner/gated", None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert find_commit("model", "owner/gated", None) == commit
    assert (model_folder("owner/gated", commit, PATTERNS) / "config.json").read_bytes() == b"{}"


def test_without_a_network_no_commit_is_found() -> None:
    assert find_commit("model", "owner/tiny", None) is None


def test_a_rate_limit_is_waited_for(hub: Hub) -> None:
    commit = hub.push("models/owner/tiny", FILES)
    hub.limited = 1
    assert find_commit("model", "owner/tiny", None) == commit
    hub.limited = 1
    assert (model_folder("owner/tiny", commit, PATTERNS) / "config.json").is_file()
    assert not hub.limited


def test_a_rate_limit_without_end_is_no_missing_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.push("models/owner/tiny", FILES)
    hub.limited = 1000
    assert find_commit("model", "owner/tiny", None) is None


def test_a_model_is_downloaded_once_and_then_needs_no_network(hub: Hub) -> None:
    old = hub.push("models/owner/tiny", FILES)
    hub.push("models/owner/tiny", {**FILES, "model.safetensors": b"other"})
    with ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(lambda _: model_folder("owner/tiny", old, PATTERNS), range(4)))
    (folder,) = folders
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not (folder / "pytorch_model.bin").exists()
    assert hub.downloads("model.safetensors") == 1
    hub.requests.clear()
    assert model_folder("owner/tiny", old, PATTERNS) == folder and not hub.requests


def test_a_local_folder_is_no_name_of_the_hub(tmp_path: Path) -> None:
    assert model_folder(str(tmp_path), None, PATTERNS) == tmp_path


def test_a_data_set_is_read_at_its_commit_and_then_needs_no_network(hub: Hub) -> None:
    old = hub.push("datasets/owner/rows", {"train.jsonl": rows("old"), "test.jsonl": rows("held", 2)})
    new = hub.push("datasets/owner/rows", {"train.jsonl": rows("new"), "test.jsonl": rows("held", 2)})
    assert first_prompts("owner/rows", old) == ["old 0", "old 1", "old 2"]
    assert first_prompts("owner/rows", new) == ["new 0", "new 1", "new 2"]
    hub.requests.clear()
    assert first_prompts("owner/rows", old)[0] == "old 0" and not hub.requests
    assert first_prompts("owner/rows", new, "test") == ["held 0", "held 1"]


def test_an_earlier_download_never_replaces_a_commit_that_cannot_be_downloaded(hub: Hub) -> None:
    """`datasets` itself would read the newest commit that it has."""
    old = hub.push("datasets/owner/rows", {"train.jsonl": rows("old")})
    assert first_prompts("owner/rows", old)[0] == "old 0"
    with pytest.raises(S2LError, match="owner/rows"):
        first_prompts("owner/rows", "f" * 40)


def test_a_missing_config_or_split_is_refused_with_those_that_exist(hub: Hub) -> None:
    card = "---\nconfigs:\n" + "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("en", "de"))
    files = {"README.md": f"{card}---\n".encode(), "en.jsonl": rows("hello"), "de.jsonl": rows("hallo")}
    commit = hub.push("datasets/owner/languages", files)
    for config in (None, "fr"):
        with pytest.raises(ConfigError, match=r"en.*de"):
            hub_dataset("owner/languages", config, commit, "train")
    with pytest.raises(ConfigError, match="train"):
        hub_dataset("owner/languages", "de", commit, "validation")
    with pytest.raises(ConfigError, match="train"):
        hub_dataset("owner/languages", "de", commit, None)
    assert first_prompts("owner/languages", commit, config="de")[0] == "hallo 0"


def test_offline_mode_of_the_library_is_no_network() -> None:
    code = "from s2l_ray.sources.hub import find_commit; print(find_commit('model', 'owner/tiny', None))"
    command = ["env", "HF_HUB_OFFLINE=1", sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "None\n"
