"""Data-parallel training: DDP or FSDP2 if torch.distributed is initialised, else a single process.

`Replica` gives the training loop the same operations in all three cases.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from s2l_ray.core.training.loss import TrainingLoss


@dataclass(frozen=True)
class Replica:
    """The model on one rank.

    `forward` is the wrapped module to call in training. `loss` is the module inside it, without gradient
    synchronisation; under FSDP the two are the same.
    """

    loss: TrainingLoss
    forward: torch.nn.Module
    rank: int
    ranks: int

    @property
    def model(self) -> PreTrainedModel:
        return self.loss.model

    @property
    def sharded(self) -> bool:
        """Whether the weights are sharded over the ranks, so that every forward pass is a collective operation."""
        return isinstance(self.forward, FSDPModule)

    @property
    def device(self) -> torch.device:
        return torch.device(next(self.model.parameters()).device)

    def accumulate(self, last: bool) -> AbstractContextManager[object]:
        """Context of one micro batch, forward and backward; gradients are synchronised in the last one only."""
        if isinstance(self.forward, FSDPModule):
            self.forward.set_requires_gradient_sync(last)
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        return nullcontext()

    def sum_over_ranks(self, values: list[float]) -> list[float]:
        """Sum the values over the ranks in float64; the result is the same on every rank."""
        if self.ranks == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()


def make_replica(loss: TrainingLoss, shard: bool) -> Replica:
    """Wrap the model for the current process group; `shard` selects FSDP2, even with a single rank."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if shard:
        if not dist.is_initialized():
            raise ValueError("FSDP needs a torch process group; use DDP, or start the training with Ray Train")
        for block in _transformer_blocks(loss.model):
            fully_shard(block)
        fully_shard(loss)
        return Replica(loss, loss, rank, ranks)
    if ranks == 1:
        return Replica(loss, loss, rank, ranks)
    # some models have parameters that the loss does not depend on, or experts that a batch does not reach
    parallel = DistributedDataParallel(loss, broadcast_buffers=False, find_unused_parameters=True)
    return Replica(loss, parallel, rank, ranks)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a sharded tensor (a collective operation); return any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_into(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a full tensor into `target`, or this rank's part of it if `target` is sharded."""
    if isinstance(target, DTensor):
        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
    target.copy_(source)


def gather_weights(replica: Replica) -> dict[str, torch.Tensor]:
    """Copies of all weights on the CPU by name, on rank 0; empty on other ranks. A collective operation.

    Tied weights share one copy.
    """
    copies: dict[int, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in replica.model.state_dict(keep_vars=True).items():
        if id(tensor) not in copies:
            full = full_tensor(tensor.detach())
            copies[id(tensor)] = full.to("cpu", copy=True) if replica.rank == 0 else full
        if replica.rank == 0:
            weights[name] = copies[id(tensor)]
    return weights


def _transformer_blocks(model: PreTrainedModel) -> Iterable[torch.nn.Module]:
    """The modules of the model's longest ModuleList."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len, default=torch.nn.ModuleList())
