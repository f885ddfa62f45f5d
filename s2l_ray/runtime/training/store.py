"""What lies in the storage of a training that was begun: which checkpoints and states of it are whole.

In: the URI of the checkpoints artefact. Out: records of `step-000500/` (weights, config, tokenizer and a sealed
`checkpoint.json`, put last) and of `resume/step-000512/` (a state and its sealed `state.json`). Both carry the sha256
of their files, so that each can be judged by itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import unseal
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.errors import DamagedError

if TYPE_CHECKING:
    from s2l_ray.core.training.state import TrainingState

CHECKPOINT, STATE = "checkpoint.json", "state.json"
RESUME = "resume"
TRAINING, HELD_OUT = "training.parquet", "held_out.parquet"


def read_checkpoint(output: str, step: int) -> dict[str, Any]:
    """The sealed record of one checkpoint. Raises `FileNotFoundError` or `DamagedError`."""
    place = storage.join(output, step_name(step), CHECKPOINT)
    return unseal(storage.read_bytes(place), place)


def is_whole_checkpoint(output: str, step: int) -> bool:
    """Whether a checkpoint lies there with every file as its record says; reads all of it."""
    try:
        files = [FileRecord(**file) for file in read_checkpoint(output, step)["files"]]
        places = [storage.join(output, step_name(step), file.path) for file in files]
        return all(storage.sha256_file(place) == file.sha256 for place, file in zip(places, files, strict=True))
    except (FileNotFoundError, DamagedError):
        return False


def newest_state(output: str, grid: Sequence[int] = ()) -> int | None:
    """The step of the newest state that a training can go on from, or None where it has to begin.

    A damaged state is passed over, and so is one with a missing or damaged checkpoint of `grid` before it: a training
    that goes on from there would not put it again.
    """
    steps = (step for step in reversed(_state_steps(output)) if _is_whole_state(output, step))
    newest = next(steps, None)
    if newest is None:
        return None
    lacking = next((step for step in grid if step <= newest and not is_whole_checkpoint(output, step)), None)
    return newest if lacking is None else next((step for step in steps if step < lacking), None)


def read_state(output: str, step: int) -> TrainingState:
    """The state of a step that `newest_state` named."""
    from s2l_ray.core.training.state import load_state

    folder, record = _state_record(output, step)
    if storage.is_local(folder):
        return load_state(storage.local_path(folder), step)
    with tempfile.TemporaryDirectory() as temporary:
        storage.get_file(storage.join(folder, record.path), Path(temporary) / record.path)
        return load_state(Path(temporary), step)


def prune_states(output: str, keep: int) -> int:
    """Remove all states but the newest `keep`, and those that broke off. The step of the newest, 0 for none."""
    whole = [step for step in _state_steps(output) if _sizes_agree(output, step)]
    for step in set(_state_steps(output)) - set(whole[-keep:]):
        storage.delete_folder(storage.join(output, RESUME, step_name(step)))
    return max(whole, default=0)


def _state_steps(output: str) -> list[int]:
    names = storage.list_folders(storage.join(output, RESUME))
    return sorted(int(name.removeprefix("step-")) for name in names if name.startswith("step-"))


def _state_record(output: str, step: int) -> tuple[str, FileRecord]:
    folder = storage.join(output, RESUME, step_name(step))
    sealed = unseal(storage.read_bytes(storage.join(folder, STATE)), storage.join(folder, STATE))
    return folder, FileRecord(**sealed["files"][0])


def _sizes_agree(output: str, step: int) -> bool:
    try:
        folder, record = _state_record(output, step)
        return storage.size(storage.join(folder, record.path)) == record.bytes
    except (FileNotFoundError, DamagedError):
        return False


def _is_whole_state(output: str, step: int) -> bool:
    try:
        folder, record = _state_record(output, step)
        place = storage.join(folder, record.path)
        return storage.size(place) == record.bytes and storage.sha256_file(place) == record.sha256
    except (FileNotFoundError, DamagedError):  # also where it is removed meanwhile, for a newer one
        return False
