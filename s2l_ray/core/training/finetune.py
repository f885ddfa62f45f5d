"""Training loop of the proxy and of target models, resumable at every step. Hooks decide what is saved, where and when.

Objective of a step: sum of nll / sum of target tokens of the global batch, without dropout. Every rank computes the
indices of the global batch; rank r of W trains on rows r::W of it, sorted by length, in micro batches. So global
batches, their order and the checkpoint steps are the same for any number of ranks.

B rows of a batch, M rows of a rank
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from s2l_ray.core.arrays import Int64
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.model_config import rope_switch
from s2l_ray.core.scoring.packed_check import AttentionChoice
from s2l_ray.core.training import schedule
from s2l_ray.core.training.distributed import Replica, full_tensor, gather_weights, make_replica
from s2l_ray.core.training.loss import TrainingLoss
from s2l_ray.core.training.packed_check import choose_training_attention
from s2l_ray.core.training.records import CheckpointRecord, StepRecord
from s2l_ray.core.training.schedule import SIGNALS, FinetuneSettings, Signal
from s2l_ray.core.training.state import History, TrainingState, capture_state, restore_state

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the training loop: `signal` is called on rank 0 only, the others on every rank.

    on_attention is called once, first. on_checkpoint receives the weights and on_state the state as CPU copies on rank
    0, empty on other ranks; the checkpoint of a step precedes its state. `signal(step)` returns whether to save a state
    after that step, and whether to stop then.
    """

    on_step: Callable[[StepRecord], None] = lambda record: None
    on_checkpoint: Callable[[CheckpointRecord, Weights], None] = lambda record, weights: None
    signal: Callable[[int], Signal] = lambda step: "continue"
    on_attention: Callable[[AttentionChoice], None] = lambda attention: None
    on_state: Callable[[TrainingState], None] = lambda state: None


@dataclass
class _Training:
    replica: Replica
    optimizer: torch.optim.AdamW
    train_rows: TokenRows
    held_out_rows: TokenRows
    settings: FinetuneSettings
    per_epoch: int
    history: History

    @property
    def total_steps(self) -> int:
        return schedule.total_steps(len(self.train_rows), self.settings)


def finetune(
    model: PreTrainedModel,
    train_rows: TokenRows,
    held_out_rows: TokenRows,
    settings: FinetuneSettings,
    hooks: Hooks,
    state: TrainingState | None = None,
) -> History:
    """Train the model in place, resuming from `state` if given, and return the whole history.

    Every row needs a target. Raises FloatingPointError if a loss or gradient is not finite, ValueError if the settings
    do not fit the rows or the ranks.
    """
    model.eval()  # and so without dropout, router noise or anything else that is not part of the objective
    if settings.gradient_checkpointing:
        _enable_gradient_checkpointing(model)
    per_epoch = schedule.steps_per_epoch(len(train_rows), settings.batch_size)
    chosen = choose_training_attention(model, train_rows, settings)
    hooks.on_attention(chosen)
    loss = TrainingLoss(model, settings.precision, chosen.attention)
    with loss.execution_context(settings.gradient_checkpointing):
        replica, optimizer = make_replica(loss, settings.shard), _make_optimizer(model, settings)
        _check_ranks(replica, settings, train_rows)
        training = _Training(replica, optimizer, train_rows, held_out_rows, settings, per_epoch, History())
        return _run(training, hooks, state)


def _enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Recompute the layers' activations in the backward pass, which transformers does in training mode only."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True  # of the layer alone, not of the modules in it


def _run(training: _Training, hooks: Hooks, state: TrainingState | None) -> History:
    grid = schedule.grid_steps(len(training.train_rows), training.settings)
    if state is None and 0 in grid:
        _checkpoint(training, hooks)
    elif state is not None:
        training.history = restore_state(state, training.replica, training.optimizer)
    for step in range(len(training.history.steps), training.total_steps):
        record, signal = _train_step(training, step, hooks)
        training.history.steps.append(record)
        hooks.on_step(record)
        if record.step in grid:
            _checkpoint(training, hooks)
        if signal != "continue":
            hooks.on_state(capture_state(training.replica, training.optimizer, training.history))
        if signal == "save and stop":
            break
    return training.history


def _check_ranks(replica: Replica, settings: FinetuneSettings, rows: TokenRows) -> None:
    if settings.batch_size < replica.ranks:
        raise ValueError(f"{replica.ranks} workers exceed the batch_size of {settings.batch_size}; use fewer workers")
    if replica.sharded and settings.batch_size % replica.ranks:
        raise ValueError(
            f"FSDP needs the same number of rows on every worker, and batch_size {settings.batch_size} is not a "
            f"multiple of {replica.ranks} workers; change the number of workers"
        )
    switch = rope_switch(replica.model.config)
    if replica.sharded and rows.lengths_N.min() <= switch < rows.lengths_N.max():
        raise ValueError(
            f"FSDP needs the same number of micro batches on every worker, but this model runs rows of more than "
            f"{switch} tokens in batches of their own; use strategy ddp"
        )


def _make_optimizer(model: PreTrainedModel, settings: FinetuneSettings) -> torch.optim.AdamW:
    """AdamW without weight decay for vectors (biases, norms), as in transformers' Trainer."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def _train_step(training: _Training, step: int, hooks: Hooks) -> tuple[StepRecord, Signal]:
    began = time.perf_counter()
    settings, replica = training.settings, training.replica
    epoch, step_in_epoch = divmod(step, training.per_epoch)
    batch_B = schedule.batch_indices(len(training.train_rows), settings.batch_size, epoch, step_in_epoch, settings.seed)
    target_tokens = int(training.train_rows.target_tokens_N[batch_B].sum())
    own_nll = _backward(training, batch_B[replica.rank :: replica.ranks], target_tokens)
    own_signal = SIGNALS.index(hooks.signal(step + 1)) if replica.rank == 0 else 0
    nll, signal = replica.sum_over_ranks([own_nll, float(own_signal)])
    rate = schedule.learning_rate(step, training.total_steps, settings.learning_rate, settings.warmup_ratio)
    norm = _clip_gradients(replica.model, settings.max_grad_norm)
    _check_finite(nll, norm, step + 1, settings)
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    training.optimizer.step()
    training.optimizer.zero_grad()
    record = StepRecord(
        step=step + 1,
        epoch=(step + 1) / training.per_epoch,
        examples_seen=(step + 1) * settings.batch_size,
        tokens=int(training.train_rows.lengths_N[batch_B].sum()),
        target_tokens=target_tokens,
        loss=nll / target_tokens,
        learning_rate=rate,
        gradient_norm=norm,
        seconds=time.perf_counter() - began,
    )
    return record, SIGNALS[round(signal)]


def _backward(training: _Training, rows_M: Int64, target_tokens: int) -> float:
    """Accumulate the gradients of this rank's rows and return the sum of their nll."""
    replica, settings = training.replica, training.settings
    batches = list(replica.loss.micro_batches(training.train_rows, rows_M, settings.micro_batch))
    total = torch.zeros((), dtype=torch.float64, device=replica.device)
    for number, index_B in enumerate(batches):
        with replica.accumulate(last=number == len(batches) - 1):
            nll = replica.forward(training.train_rows, index_B)
            # gradients are averaged over the ranks, and the objective is their sum
            torch.autograd.backward(nll * (replica.ranks / target_tokens))
        total += nll.detach()
    return total.item()


def _checkpoint(training: _Training, hooks: Hooks) -> None:
    history, settings = training.history, training.settings
    step = len(history.steps)
    record = CheckpointRecord(
        step=step,
        epoch=step / training.per_epoch,
        examples_seen=step * settings.batch_size,
        learning_rate=history.steps[-1].learning_rate if step else 0.0,
        training_loss=history.training_loss(),
        held_out_loss=_held_out_loss(training),
    )
    history.checkpoints.append(record)
    hooks.on_checkpoint(record, gather_weights(training.replica))


def _held_out_loss(training: _Training) -> float | None:
    """Loss per target token over the held-out rows, distributed over the ranks; None without such rows."""
    rows, replica = training.held_out_rows, training.replica
    if not len(rows):
        return None
    # under FSDP a forward pass is a collective operation: every rank runs all rows, so that the numbers are equal
    share = slice(None) if replica.sharded else slice(replica.rank, None, replica.ranks)
    total = torch.zeros((), dtype=torch.float64, device=replica.device)
    with torch.no_grad():
        for index_B in replica.loss.micro_batches(rows, np.arange(len(rows))[share], training.settings.micro_batch):
            total += replica.loss(rows, index_B)
    nll = total.item() if replica.sharded else replica.sum_over_ranks([total.item()])[0]
    return nll / int(rows.target_tokens_N.sum())


def _clip_gradients(model: PreTrainedModel, max_norm: float) -> float:
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(full_tensor(norm).item())


def _check_finite(nll: float, norm: float, step: int, settings: FinetuneSettings) -> None:
    if math.isfinite(nll) and math.isfinite(norm):
        return
    name = "loss" if not math.isfinite(nll) else "gradient norm"
    precision = " or use precision float32" if settings.precision != "float32" else ""
    raise FloatingPointError(
        f"training {name} is not finite at step {step}; lower learning_rate {settings.learning_rate:g}{precision}"
    )
