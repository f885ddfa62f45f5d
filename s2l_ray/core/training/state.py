"""All that a training needs to go on at its step as if it had never stopped.

In: a replica, its AdamW and its history. Out: one flat dict of CPU tensors, and back. In a folder it is one safetensors
file: nothing is pickled. The tensors are whole: a training may go on under DDP or FSDP, whichever wrote them.
Schedule and data order are functions of the step, so the step is all that is kept of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from s2l_ray.core.training.distributed import Replica, copy_into, whole, whole_weights
from s2l_ray.core.training.log import History

STATE_FILE = "state.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainingState:
    """The position, and tensors by name: `weights/...`, `adamw/<moment>/...`, `rng/...`, `history/...`."""

    step: int
    tensors: dict[str, torch.Tensor]

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors below `name/`."""
        return {key[len(name) + 1 :]: value for key, value in self.tensors.items() if key.startswith(f"{name}/")}


def capture_state(replica: Replica, optimizer: torch.optim.AdamW, history: History) -> TrainingState:
    """Own copies of everything; empty tensors but on rank 0. A collective."""
    tensors = _named("weights", whole_weights(replica))
    for name, parameter in replica.model.named_parameters():
        for moment, value in optimizer.state[parameter].items():
            full = whole(value)
            if replica.rank == 0:
                tensors[f"adamw/{moment}/{name}"] = full.to("cpu", copy=True)
    if replica.rank == 0:
        tensors |= _named("rng", _rng_states()) | _named("history", history.tables())
    return TrainingState(len(history.steps), tensors)


def restore_state(state: TrainingState, replica: Replica, optimizer: torch.optim.AdamW) -> History:
    """Put the state back in place and return the history up to it. Raises ValueError where it is another model's."""
    weights = state.part("weights")
    with torch.no_grad():
        own = replica.model.state_dict(keep_vars=True)
        if own.keys() != weights.keys():
            raise ValueError("the saved training is of another model; remove its resume state to start over")
        for name, tensor in own.items():
            copy_into(tensor, weights[name])
        for name, parameter in replica.model.named_parameters():
            moments = {moment: state.tensors.get(f"adamw/{moment}/{name}") for moment in MOMENTS}
            optimizer.state[parameter] = {
                moment: _like(parameter, value) for moment, value in moments.items() if value is not None
            }
    _set_rng_states(state.part("rng"))
    return History.from_tables(state.part("history"))


def save_state(state: TrainingState, folder: Path) -> Path:
    """Write the state into `folder` and return the file."""
    tensors = {name: tensor.contiguous() for name, tensor in _untied(state.tensors).items()}
    save_file(tensors, folder / STATE_FILE, {"step": str(state.step)})
    return folder / STATE_FILE


def load_state(folder: Path, step: int) -> TrainingState:
    """Read the state of `step` that `save_state` wrote."""
    return TrainingState(step, load_file(folder / STATE_FILE))


def _named(part: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{part}/{name}": tensor for name, tensor in tensors.items()}


def _untied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """safetensors refuses two names for one memory."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result


def _like(parameter: torch.nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """A moment on the parameter's device, and sharded as it is; AdamW's scalar step on the device alone."""
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
