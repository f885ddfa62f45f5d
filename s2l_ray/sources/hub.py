"""Models and data sets of the Hugging Face hub: the commit of a revision, and one download per node at that commit.

Whatever is loaded, is loaded from local files, so that a process on a node that has them needs no network.
`huggingface_hub` reads HF_ENDPOINT, HF_HOME and HF_TOKEN, and waits and retries where the hub answers 429.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from s2l_ray.artifacts.fingerprint import canonical_json
from s2l_ray.artifacts.node_cache import cache_folder
from s2l_ray.errors import ConfigError, S2LError, UnresolvedError
from s2l_ray.sources.rows import RawRow, rows_from_table
from s2l_ray.storage.disk import file_lock

if TYPE_CHECKING:
    from datasets import Dataset

RepositoryKind = Literal["model", "dataset"]

COMMIT = re.compile(r"[0-9a-f]{40}")
BATCH_ROWS = 1000
TOO_MANY_REQUESTS = 429
TOKENIZER_FILES = (
    "config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*",
)
SENTENCE_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def is_commit(revision: str | None) -> bool:
    return revision is not None and COMMIT.fullmatch(revision) is not None


def require_commit(name: str, revision: str | None) -> None:
    """Raise `UnresolvedError`, whose message begins with `name`, for a revision that is no commit."""
    if not is_commit(revision):
        raise UnresolvedError(
            f"{name} at {revision or 'main'}: its commit is unknown, because the hub cannot be reached and the last "
            "run has not recorded it; try again with a network, or write a commit as the revision"
        )


def find_commit(kind: RepositoryKind, name: str, revision: str | None) -> str | None:
    """The commit of a branch, a tag, or of the default branch; None where the hub cannot be reached.

    Raises `ConfigError` for a repository or revision that does not exist, or that this user may not read.
    """
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    def ask(path: str) -> httpx2.Response:
        url = f"{constants.ENDPOINT}/api/{kind}s/{name}/{path}"
        response = http_backoff("GET", url, headers=build_hf_headers(), retry_on_exceptions=())
        hf_raise_for_status(response)
        return response

    try:
        commit: str = ask(f"revision/{quote(revision or constants.DEFAULT_REVISION, safe='')}").json()["sha"]
        ask("auth-check")
    except (httpx2.TransportError, OfflineModeIsEnabled):
        return None
    except GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
        raise ConfigError(
            f"{name}: is gated; request access at {page}, then set HF_TOKEN, or run `hf auth login`",
            page="docs/data.md#the-hub",
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigError(
            f"{name}: has no revision {revision}; name a branch, a tag or a commit of it", page="docs/data.md#the-hub"
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code == TOO_MANY_REQUESTS or error.response.status_code >= 500:
            return None
        raise ConfigError(
            f"{name}: no such {kind} on the hub, or a private one ({error.response.status_code}); correct the id, or "
            "set HF_TOKEN",
            page="docs/data.md#the-hub",
        ) from error
    return commit


def model_folder(name: str, commit: str | None, files: Sequence[str]) -> Path:
    """The local folder of a model or tokenizer: `name` if it is one, else the files of the hub at a commit.

    files: patterns of what is downloaded, once per node. Raises `S2LError` if that fails.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    with file_lock(_node_file("model", name, commit).with_suffix(".lock")):
        try:
            return Path(snapshot_download(name, revision=commit, allow_patterns=list(files)))
        except OSError as error:
            raise S2LError(f"{name} at {commit}: cannot be downloaded: {error}; run again to retry") from error


@lru_cache(maxsize=4)
def hub_dataset(name: str, config: str | None, commit: str | None, split: str | None) -> Dataset:
    """A data set as the library `datasets` reads it, downloaded and converted once per node.

    Raises `ConfigError` for a missing `config` or `split`, with those that exist, and `S2LError` if a download fails.
    """
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"hub: {name} needs the package datasets; pip install 's2l_ray[hub]'") from error
    listing = _node_file("dataset", name, config, commit, split)
    with file_lock(listing.with_suffix(".lock")):
        files = _converted_files(listing)
        if files is None:
            files = _convert(name, config, commit, split)
            listing.write_text(json.dumps({file: Path(file).stat().st_size for file in files}))
    return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])


def read_hub(dataset: Dataset, start: int, stop: int) -> Iterator[RawRow]:
    """Rows [start, stop) of a data set of the hub."""
    line = 1
    for table in dataset.select(range(start, stop)).with_format("arrow").iter(BATCH_ROWS):
        yield from rows_from_table(line, table)
        line += table.num_rows


def _convert(name: str, config: str | None, commit: str | None, split: str | None) -> list[str]:
    """Download a data set. Returns the Arrow files with its rows, in order."""
    import datasets

    try:
        loaded = datasets.load_dataset(name, config, revision=commit, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, ValueError):  # which names the configs and splits that exist
            raise ConfigError(f"hub: {name}: {text}; correct config: and split: of this source") from error
        raise S2LError(f"hub: {name} at {commit}: {text}; run again to retry") from error
    if not isinstance(loaded, datasets.Dataset):
        raise ConfigError(f"hub: {name} has the splits {', '.join(loaded)}; set split: to one of them")
    # `datasets` falls back to any earlier download where a request fails
    if not all(f"@{commit}/" in url for url in loaded.download_checksums or {}):
        raise S2LError(f"hub: {name} at {commit}: could not be downloaded; run again when the hub can be reached")
    return [file["filename"] for file in loaded.cache_files]


def _converted_files(listing: Path) -> list[str] | None:
    """The Arrow files of an earlier conversion on this node, if all are complete."""
    try:
        sizes: dict[str, int] = json.loads(listing.read_text())
        complete = all(Path(file).stat().st_size == size for file, size in sizes.items())
    except (OSError, ValueError):
        return None
    return list(sizes) if complete else None


def _node_file(*key: str | None) -> Path:
    """A file of this node that is named after the reference."""
    return cache_folder() / f"hub-{hashlib.sha256(canonical_json(key).encode()).hexdigest()[:16]}.json"
