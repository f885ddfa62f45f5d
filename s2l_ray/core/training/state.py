"""Resume state of a training: weights, AdamW moments, random number states and history as one dict of CPU tensors.

Stored as one safetensors file, so nothing is pickled. Tensors are unsharded: a training may resume under DDP or FSDP,
whichever wrote the state. Schedule and data order are functions of the step, so only the step is stored. The history
is two float64 tables, in which a loss that was not measured is NaN.

S steps, C checkpoints
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file

from s2l_ray.core.training.distributed import Replica, copy_into, full_tensor, gather_weights
from s2l_ray.core.training.records import CheckpointRecord, StepRecord

STATE_FILE = "state.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
Record = TypeVar("Record", StepRecord, CheckpointRecord)


@dataclass
class History:
    """All records of a training so far, in order."""

    steps: list[StepRecord] = field(default_factory=list)
    checkpoints: list[CheckpointRecord] = field(default_factory=list)

    def training_loss(self) -> float | None:
        """Loss per target token over the steps since the last checkpoint; None if there were no steps."""
        since = self.checkpoints[-1].step if self.checkpoints else 0
        recent = self.steps[since:]
        tokens = sum(record.target_tokens for record in recent)
        return sum(record.loss * record.target_tokens for record in recent) / tokens if tokens else None

    def tables(self) -> dict[str, torch.Tensor]:
        """`steps` [S, columns] and `checkpoints` [C, columns] in float64; columns are the fields of the records."""
        return {
            "steps": _to_table(self.steps, StepRecord),
            "checkpoints": _to_table(self.checkpoints, CheckpointRecord),
        }

    @classmethod
    def from_tables(cls, tables: dict[str, torch.Tensor]) -> History:
        """Restore the history that `tables` was called on."""
        return cls(_from_table(tables["steps"], StepRecord), _from_table(tables["checkpoints"], CheckpointRecord))


@dataclass(frozen=True)
class TrainingState:
    """Step and tensors by name: `weights/...`, `adamw/<moment>/...`, `rng/...`, `history/...`."""

    step: int
    tensors: dict[str, torch.Tensor]

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """Tensors whose names begin with `name/`, without that prefix."""
        return {key[len(name) + 1 :]: value for key, value in self.tensors.items() if key.startswith(f"{name}/")}


def capture_state(replica: Replica, optimizer: torch.optim.AdamW, history: History) -> TrainingState:
    """Copies of all tensors on rank 0, no tensors on other ranks. A collective operation."""
    tensors = _prefixed("weights", gather_weights(replica))
    for name, parameter in replica.model.named_parameters():
        for moment, value in optimizer.state[parameter].items():
            full = full_tensor(value)
            if replica.rank == 0:
                tensors[f"adamw/{moment}/{name}"] = full.to("cpu", copy=True)
    if replica.rank == 0:
        tensors |= _prefixed("rng", _rng_states()) | _prefixed("history", history.tables())
    return TrainingState(len(history.steps), tensors)


def restore_state(state: TrainingState, replica: Replica, optimizer: torch.optim.AdamW) -> History:
    """Copy the state into model and optimizer and return its history. Raises ValueError if it is of another model."""
    weights = state.part("weights")
    with torch.no_grad():
        own = replica.model.state_dict(keep_vars=True)
        if own.keys() != weights.keys():
            raise ValueError("the saved state is of another model; remove the resume state to restart the training")
        for name, tensor in own.items():
            copy_into(tensor, weights[name])
        for name, parameter in replica.model.named_parameters():
            moments = {moment: state.tensors.get(f"adamw/{moment}/{name}") for moment in MOMENTS}
            optimizer.state[parameter] = {
                moment: _placed_like(parameter, value) for moment, value in moments.items() if value is not None
            }
    _set_rng_states(state.part("rng"))
    return History.from_tables(state.part("history"))


def save_state(state: TrainingState, folder: Path) -> Path:
    """Write the state into `folder` and return the path of the file."""
    tensors = {name: tensor.contiguous() for name, tensor in _without_shared_memory(state.tensors).items()}
    save_file(tensors, folder / STATE_FILE, {"step": str(state.step)})
    return folder / STATE_FILE


def load_state(folder: Path, step: int) -> TrainingState:
    """Read the state of `step` from the folder that `save_state` wrote."""
    return TrainingState(step, load_file(folder / STATE_FILE))


def _prefixed(part: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{part}/{name}": tensor for name, tensor in tensors.items()}


def _without_shared_memory(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Clone tied tensors: safetensors rejects two names for the same memory."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result


def _placed_like(parameter: torch.nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """A moment on the parameter's device with the parameter's sharding; AdamW's scalar `step` is not sharded."""
    if value.ndim == 0 and parameter.ndim > 0:
        return value.to(parameter.device)
    moment = torch.zeros_like(parameter, dtype=value.dtype)
    copy_into(moment, value)
    return moment


def _rng_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_rng_states(states: dict[str, torch.Tensor]) -> None:
    torch.random.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _to_table(records: list[Record], record_type: type[Record]) -> torch.Tensor:
    rows = [[math.nan if value is None else value for value in astuple(record)] for record in records]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(fields(record_type)))


def _from_table(table: torch.Tensor, record_type: type[Record]) -> list[Record]:
    make: Callable[..., Record] = record_type
    integer = [column.type in (int, "int") for column in fields(record_type)]

    def restore(is_integer: bool, value: float) -> int | float | None:
        return None if math.isnan(value) else int(value) if is_integer else value

    return [make(*map(restore, integer, row)) for row in table.tolist()]
