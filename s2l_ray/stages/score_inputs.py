"""The inputs of `score`: a check of tokenizers of checkpoints trained elsewhere, and units that were scored before."""

import dataclasses
from collections.abc import Collection, Mapping

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit, read_verified
from s2l_ray.catalog.scored_units import StoredUnit, UnitKey
from s2l_ray.errors import DamagedError, S2LError
from s2l_ray.stages.score_workers import ScoreUnit

TOKENIZER = "tokenizer.json"
SHOWN = 3


def check_tokenizers(dataset: Artifact, checkpoints: Artifact) -> None:
    """Raise `S2LError` where a checkpoint's tokenizer has another token than the dataset's for the same id.

    A checkpoint without tokenizer.json is not checked, and neither are ids that only one of them has.
    """
    own = [record for record in dataset.files("tokenizer/") if record.path.endswith(f"/{TOKENIZER}")]
    others = {record.sha256: record for record in checkpoints.files() if record.path.endswith(f"/{TOKENIZER}")}
    for sha256, record in others.items():
        if own and sha256 != own[0].sha256:
            different = _different(_tokens(dataset, own[0]), _tokens(checkpoints, record))
            if different:
                raise S2LError(
                    f"score: the tokenizer of {checkpoints.uri}/{record.path} differs from that of the dataset: "
                    f"{'; '.join(different[:SHOWN])}. Set data.tokenizer to the tokenizer of the checkpoints"
                )


def _tokens(artifact: Artifact, record: FileRecord) -> dict[int, str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(read_verified(artifact.uri, record).decode())
    return {number: token for token, number in tokenizer.get_vocab().items()}


def _different(dataset: dict[int, str], checkpoint: dict[int, str]) -> list[str]:
    both = sorted(dataset.keys() & checkpoint.keys())
    return [
        f"id {number} is {dataset[number]!r} and {checkpoint[number]!r}"
        for number in both
        if dataset[number] != checkpoint[number]
    ]


def find_or_copy_unit(
    folder: str, unit: ScoreUnit, listed: Collection[str], stored: Mapping[UnitKey, StoredUnit]
) -> FileRecord | None:
    """The unit's file if it is complete, or a copy of one that other trajectories hold, else None.

    listed: paths in `folder`, so that a new artifact does not request each of its units in vain.
    """
    found = find_complete_unit(folder, unit.name, unit.key) if unit.name in listed else None
    other = stored.get(frozenset(unit.key.items()))
    if found is not None or other is None:
        return found
    try:
        data = read_verified(other.artifact.uri, other.record)
    except DamagedError:
        return None
    storage.write_bytes(storage.join(folder, unit.name), data)
    return dataclasses.replace(other.record, path=unit.name)
