"""A model over several processes: DDP or FSDP2 where torch.distributed is up, plain where it is not.

In: a model and the process group that the caller has set up, if any. Out: a `Replica` that hides which of the three it
is: forward, gradient sync at the last micro batch only, sums over ranks, whole tensors from and to shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
    """One rank's view of the model. `forward` is what to call in training; `loss` is the same without the other ranks,
    except for shards.
    """

    loss: TrainingLoss
    forward: torch.nn.Module
    rank: int
    ranks: int

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model behind it."""
        return self.loss.model

    @property
    def sharded(self) -> bool:
        """Whether the weights are spread over the ranks, so that every forward pass is a collective."""
        return isinstance(self.forward, FSDPModule)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(next(self.model.parameters()).device)

    def accumulate(self, last: bool) -> AbstractContextManager[object]:
        """Around one micro batch, forward and backward: gradients meet over the ranks only in the last one."""
        if isinstance(self.forward, FSDPModule):
            self.forward.set_requires_gradient_sync(last)
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        return nullcontext()

    def sum_over_ranks(self, values: list[float]) -> list[float]:
        """The values summed over the ranks, in float64; the same on every rank."""
        if self.ranks == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()


def make_replica(loss: TrainingLoss, shard: bool) -> Replica:
    """Wrap the model for the process group that is up; `shard` asks for FSDP2, also where there is one rank."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    if shard:
        if not dist.is_initialized():
            raise ValueError("FSDP needs a torch process group; use DDP, or start the training by Ray Train")
        for block in _blocks(loss.model):
            fully_shard(block)
        fully_shard(loss)
        return Replica(loss, loss, rank, ranks)
    return Replica(loss, DistributedDataParallel(loss, broadcast_buffers=False) if ranks > 1 else loss, rank, ranks)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor behind a shard, a collective; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_into(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a full tensor into its place, or the part of it that is this rank's into its shard."""
    if isinstance(target, DTensor):
        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
    target.copy_(source)


def whole_weights(replica: Replica) -> dict[str, torch.Tensor]:
    """Own copies of all weights on the CPU, by name, tied ones once in memory; empty but on rank 0. A collective."""
    copies: dict[int, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in replica.model.state_dict(keep_vars=True).items():
        if id(tensor) not in copies:
            full = whole(tensor.detach())
            copies[id(tensor)] = full.to("cpu", copy=True) if replica.rank == 0 else full
        if replica.rank == 0:
            weights[name] = copies[id(tensor)]
    return weights


def _blocks(model: PreTrainedModel) -> Iterator[torch.nn.Module]:
    """The transformer's layers: the modules of its longest list."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    yield from max(lists, key=len, default=torch.nn.ModuleList())


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients for as long as the block runs."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)
