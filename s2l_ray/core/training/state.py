"""Resume state of a training: weights, AdamW moments, random number states and history as one dict of CPU tensors.

Stored as one safetensors file, so nothing is pickled. Tensors are unsharded: a training may resume under DDP or FSDP,
whichever wrote the state. Schedule and data order are functions of the step, so only the step is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from s2l_ray.core.training.distributed import Replica, copy_into, full_tensor, gather_weights
from s2l_ray.core.training.log import History

STATE_FILE = "state.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


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
