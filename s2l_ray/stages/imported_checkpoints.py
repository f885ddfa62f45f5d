"""The work of a checkpoints import: one checkpoint, loaded strictly and copied into the artifact.

Weights are copied, so that the artifact stays complete when their origin changes. `s2l gc --weights` deletes the copies
once they are scored.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import canonical_json
from s2l_ray.artifacts.receipts import write_receipt
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.errors import S2LError
from s2l_ray.sources.checkpoints import MODEL_FILES, CheckpointOrigin, is_model_file
from s2l_ray.sources.hub import model_folder


@dataclass(frozen=True)
class ImportUnit:
    """One checkpoint."""

    origin: CheckpointOrigin

    @property
    def name(self) -> str:
        return step_name(self.origin.record.step)

    @property
    def receipt(self) -> str:
        return f"work/{self.name}.json"

    @property
    def key(self) -> dict[str, str]:
        return {"reference": canonical_json(self.origin.reference)}


@dataclass(frozen=True)
class ImportedCheckpoint:
    """A copied checkpoint. shapes: digest of the model's class and the shapes of its weights."""

    record: CheckpointRecord
    shapes: str
    files: list[FileRecord]


class ImportWorker:
    """Check and copy one checkpoint at a time."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, unit: ImportUnit) -> ImportedCheckpoint:
        with _local_files(unit.origin) as local:
            shapes = _load_strictly(unit.origin.name, local)
            files = []
            for path in sorted(path for path in local.iterdir() if is_model_file(path.name)):
                stored = f"{unit.name}/{path.name}"
                storage.put_file(path, storage.join(self._folder, stored))
                sha256 = storage.sha256_file(storage.join(self._folder, stored))
                files.append(FileRecord(stored, None, path.stat().st_size, sha256))
        _check_unchanged(unit.origin, files)
        result = ImportedCheckpoint(unit.origin.record, shapes, files)
        return write_receipt(self._folder, unit.receipt, unit.key, result)


@contextmanager
def _local_files(origin: CheckpointOrigin) -> Iterator[Path]:
    """A local folder with the files of the checkpoint, while the block runs."""
    if origin.folder is None:
        yield model_folder(origin.hub, origin.revision, MODEL_FILES)
    elif storage.is_local(origin.folder):
        yield storage.local_path(origin.folder)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            for entry in storage.list_files(origin.folder):
                if is_model_file(entry.path):
                    storage.get_file(storage.join(origin.folder, entry.path), Path(temporary) / entry.path)
            yield Path(temporary)


def _load_strictly(name: str, folder: Path) -> str:
    """Digest of the model's class and shapes. Raises `S2LError` where weights do not fit the config."""
    import torch

    from s2l_ray.core.causal_lm import load_model

    try:
        model = load_model(folder, dtype=torch.bfloat16)
    except (ValueError, OSError) as error:
        raise S2LError(f"proxy.checkpoints_from: {name}: {error}") from error
    shapes = [[key, list(value.shape)] for key, value in sorted(model.state_dict().items())]
    return hashlib.sha256(canonical_json([type(model).__name__, shapes]).encode()).hexdigest()


def _check_unchanged(origin: CheckpointOrigin, files: list[FileRecord]) -> None:
    """Raise `S2LError` where the copied files are not those of the plan; only digests of local files are known."""
    if origin.folder is None or not storage.is_local(origin.folder):
        return
    copied = {file.path.rpartition("/")[2]: file.sha256 for file in files}
    planned = {str(path): sha256 for path, sha256 in origin.reference}
    if copied != planned:
        raise S2LError(f"proxy.checkpoints_from: {origin.folder} changed since the run began; run again")
