"""Training against an independent loop, and against itself: resumed, other micro batches, several ranks."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from s2l_ray.core.causal_lm import init_model
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.training.finetune import Hooks, finetune
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings, batch_indices
from s2l_ray.core.training.state import History, TrainingState, load_state, save_state
from tests.support.tiny_training import NEOX

VOCAB = 50
TIED_LLAMA = {**NEOX, "architecture": "llama", "tie_word_embeddings": True}
SETTINGS = FinetuneSettings(
    epochs=2,
    batch_size=8,
    learning_rate=3e-3,
    warmup_ratio=0.1,
    weight_decay=0.01,
    max_grad_norm=0.5,
    precision="float32",
    grid=CheckpointGrid(steps=3),
    seed=7,
    micro_batch=3,
)

pytestmark = pytest.mark.usefixtures("one_thread")
Weights = dict[str, torch.Tensor]


def make_rows(count: int, seed: int) -> TokenRows:
    """Rows of consecutive numbers, of different lengths, some with two target spans."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 24, count)
    ids = [((rng.integers(VOCAB) + np.arange(length)) % VOCAB).tolist() for length in lengths]
    spans = [[(1, 2), (3, len(row))] if len(row) % 2 else [(len(row) // 2, len(row))] for row in ids]
    return TokenRows.from_rows(ids, spans)


TRAIN, HELD_OUT = make_rows(43, 0), make_rows(5, 1)


def train(
    settings: FinetuneSettings = SETTINGS, config: dict[str, object] = NEOX
) -> tuple[History, dict[int, Weights]]:
    return train_from(init_model(config, VOCAB, 0), settings)


def train_from(
    model: PreTrainedModel, settings: FinetuneSettings, state: TrainingState | None = None
) -> tuple[History, dict[int, Weights]]:
    saved: dict[int, Weights] = {}

    def keep(record: CheckpointRecord, weights: Weights) -> None:
        saved[record.step] = weights

    return finetune(model, TRAIN, HELD_OUT, settings, Hooks(on_checkpoint=keep), state), saved


def without_seconds(history: History) -> History:
    return History([dataclasses.replace(record, seconds=0.0) for record in history.steps], history.checkpoints)


def assert_equal_weights(one: dict[int, Weights], other: dict[int, Weights]) -> None:
    assert one.keys() == other.keys()
    for step in one:
        assert all(torch.equal(one[step][name], other[step][name]) for name in one[step]), step


def largest_difference(one: Weights, other: Weights) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def reference_loop(model: PreTrainedModel) -> tuple[list[float], list[float]]:
    """One row at a time without padding, with transformers' schedule and torch's unfused AdamW and clipping."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    spared = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, foreach=False)
    schedule = get_cosine_schedule_with_warmup(optimizer, 1, 10)
    losses, norms = [], []
    for step in range(10):
        nll, tokens = torch.zeros(()), 0
        for index in batch_indices(43, 8, step // 5, step % 5, 7):
            row = TRAIN.take([index])
            log_p_LV = model(torch.tensor(row.ids_X, dtype=torch.int64)[None]).logits[0].log_softmax(-1)
            for start, end in row.spans_S2:
                for position in range(start, end):
                    nll = nll - log_p_LV[position - 1, row.ids_X[position]]
                    tokens += 1
        (nll / tokens).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        losses.append(nll.item() / tokens)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return losses, norms


def test_losses_and_gradient_norms_match_a_reference_loop() -> None:
    history, saved = train()
    reference = init_model(NEOX, VOCAB, 0)
    losses, norms = reference_loop(reference)
    assert [record.loss for record in history.steps] == pytest.approx(losses, abs=2e-5)
    assert [record.gradient_norm for record in history.steps] == pytest.approx(norms, rel=1e-3)
    assert max(norms) > 0.5, "gradients are clipped"
    assert sorted(saved) == [0, 3, 6, 9]
    start = init_model(NEOX, VOCAB, 0).state_dict()
    assert all(torch.equal(saved[0][name], start[name]) for name in start)


def test_records_count_examples_tokens_and_losses() -> None:
    history, saved = train()
    assert [record.examples_seen for record in history.steps] == [8 * step for step in range(1, 11)]
    first = TRAIN.take(batch_indices(43, 8, 0, 0, 7))
    assert history.steps[0].target_tokens == first.target_tokens_N.sum()
    assert [(record.step, record.epoch) for record in history.checkpoints] == [(0, 0.0), (3, 0.6), (6, 1.2), (9, 1.8)]
    assert history.checkpoints[0].training_loss is None
    middle = history.steps[3:6]
    nll, tokens = sum(one.loss * one.target_tokens for one in middle), sum(one.target_tokens for one in middle)
    assert history.checkpoints[2].training_loss == pytest.approx(nll / tokens)
    assert history.checkpoints[2].learning_rate == history.steps[5].learning_rate

    model = init_model(NEOX, VOCAB, 0)
    model.load_state_dict(saved[9])
    nll = 0.0
    for index in range(len(HELD_OUT)):
        ids = torch.tensor(HELD_OUT.take([index]).ids_X, dtype=torch.int64)
        mask = torch.from_numpy(HELD_OUT.take([index]).target_mask_X)
        labels = torch.where(mask, ids, -100)[None]
        nll += model(ids[None], labels=labels).loss.item() * int(mask.sum())
    assert history.checkpoints[-1].held_out_loss == pytest.approx(nll / HELD_OUT.target_tokens_N.sum(), abs=1e-5)


@pytest.mark.parametrize("stop_at", [1, 4, 6, 10])
@pytest.mark.parametrize("config", [NEOX, TIED_LLAMA], ids=["gpt_neox", "tied_llama"])
def test_resumed_training_is_bit_identical(stop_at: int, config: dict[str, object], tmp_path: Path) -> None:
    history, saved = train(config=config)
    before: dict[int, Weights] = {}
    hooks = Hooks(
        on_checkpoint=lambda record, weights: before.__setitem__(record.step, weights),
        signal=lambda step: "save and stop" if step == stop_at else "continue",
        on_state=lambda state: (save_state(state, tmp_path), None)[1],
    )
    stopped = finetune(init_model(config, VOCAB, 0), TRAIN, HELD_OUT, SETTINGS, hooks)
    assert len(stopped.steps) == stop_at

    torch.manual_seed(99)
    other_start = init_model(config, VOCAB, 5)
    resumed, after = train_from(other_start, SETTINGS, load_state(tmp_path, stop_at))
    assert without_seconds(resumed) == without_seconds(history)
    assert_equal_weights({**before, **after}, saved)
    assert min(after, default=stop_at + 1) > stop_at


def test_saving_states_does_not_change_the_training() -> None:
    states: list[TrainingState] = []
    hooks = Hooks(signal=lambda step: "save", on_state=states.append)
    watched = finetune(init_model(NEOX, VOCAB, 0), TRAIN, HELD_OUT, SETTINGS, hooks)
    history, saved = train()
    assert without_seconds(watched) == without_seconds(history)
    assert [state.step for state in states] == list(range(1, 11))
    assert largest_difference(states[2].part("weights"), saved[3]) == 0.0


@pytest.mark.parametrize("change", [{"micro_batch": 1}, {"micro_batch": 8}, {"gradient_checkpointing": True}], ids=str)
def test_micro_batches_change_rounding_only(change: dict[str, object]) -> None:
    history, saved = train()
    other_history, other_saved = train(dataclasses.replace(SETTINGS, **change))
    losses, others = ([record.loss for record in one.steps] for one in (history, other_history))
    assert losses == pytest.approx(others, abs=1e-5)
    assert largest_difference(saved[3], other_saved[3]) < 1e-4


def test_bfloat16_is_close_to_float32_and_keeps_float32_weights() -> None:
    history, _ = train()
    rough, saved = train(dataclasses.replace(SETTINGS, precision="bfloat16"))
    assert {tensor.dtype for tensor in saved[9].values()} == {torch.float32}
    assert rough.steps[0].loss != history.steps[0].loss
    assert rough.steps[-1].loss == pytest.approx(history.steps[-1].loss, abs=0.05)


def test_held_out_loss_falls() -> None:
    history, _ = train(dataclasses.replace(SETTINGS, epochs=20, grid=CheckpointGrid(fraction=0.5)))
    losses = [record.held_out_loss for record in history.checkpoints]
    assert losses[0] is not None and losses[-1] is not None
    assert losses[0] == pytest.approx(math.log(VOCAB), abs=0.3)
    assert losses[-1] < losses[0] / 2


def test_held_out_loss_is_none_without_held_out_rows() -> None:
    nothing = TokenRows.from_rows([], [])
    history = finetune(init_model(NEOX, VOCAB, 0), TRAIN, nothing, SETTINGS, Hooks())
    assert {record.held_out_loss for record in history.checkpoints} == {None}
    assert History.from_tables(history.tables()) == history


def test_non_finite_loss_raises() -> None:
    model = init_model(NEOX, VOCAB, 0)
    settings = dataclasses.replace(SETTINGS, learning_rate=1e30, warmup_ratio=0.0, precision="bfloat16")
    with pytest.raises(FloatingPointError, match=r"step [23].*lower learning_rate 1e\+30 or use precision float32"):
        finetune(model, TRAIN, HELD_OUT, settings, Hooks())


def test_state_of_another_model_raises(tmp_path: Path) -> None:
    states: list[TrainingState] = []
    hooks = Hooks(signal=lambda step: "save and stop", on_state=states.append)
    finetune(init_model(NEOX, VOCAB, 0), TRAIN, HELD_OUT, SETTINGS, hooks)
    with pytest.raises(ValueError, match="another model"):
        train_from(init_model(TIED_LLAMA, VOCAB, 0), SETTINGS, states[0])


def _rank(rank: int, ranks: int, folder: Path) -> None:
    """One process of a training under DDP and one under FSDP2, each stopped at step 4 and resumed."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    for shard in (False, True) if SETTINGS.batch_size % ranks == 0 else (False,):
        outcome = _stopped_and_resumed(rank, dataclasses.replace(SETTINGS, shard=shard))
        if rank == 0:
            save_file(outcome, folder / f"{shard}.safetensors")
    dist.destroy_process_group()


def _stopped_and_resumed(rank: int, settings: FinetuneSettings) -> dict[str, torch.Tensor]:
    saved: dict[str, torch.Tensor] = {}
    states: list[TrainingState] = []
    hooks = Hooks(
        on_checkpoint=lambda record, weights: saved.update({f"{record.step}/{key}": weights[key] for key in weights}),
        signal=lambda step: "save and stop" if step == 4 else "continue",
        on_state=states.append,
    )
    finetune(init_model(NEOX, VOCAB, 0), TRAIN, HELD_OUT, settings, hooks)
    broadcast_state = [states[0]] if rank == 0 else [None]
    dist.broadcast_object_list(broadcast_state)
    hooks = dataclasses.replace(hooks, signal=lambda step: "continue")
    history = finetune(init_model(NEOX, VOCAB, rank), TRAIN, HELD_OUT, settings, hooks, broadcast_state[0])
    assert bool(saved) == (rank == 0)
    return saved | {f"history/{name}": table for name, table in history.tables().items()}


def assert_same_training(outcome: dict[str, torch.Tensor]) -> None:
    together = History.from_tables({name: outcome[f"history/{name}"] for name in ("steps", "checkpoints")})
    alone, saved = train()
    for one, other in zip(together.steps, alone.steps, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)
    for one, other in zip(together.checkpoints, alone.checkpoints, strict=True):
        assert one.held_out_loss == pytest.approx(other.held_out_loss, abs=1e-5)
        weights = {name: outcome[f"{one.step}/{name}"] for name in saved[one.step]}
        assert largest_difference(weights, saved[one.step]) < 1e-4


@pytest.mark.slow
def test_two_ranks_match_one_rank_under_ddp_and_fsdp(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (2, tmp_path), nprocs=2)
    assert_same_training(load_file(tmp_path / "False.safetensors"))
    assert_same_training(load_file(tmp_path / "True.safetensors"))


@pytest.mark.slow
def test_ranks_that_do_not_divide_the_batch_match_one_rank(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (3, tmp_path), nprocs=3)
    assert_same_training(load_file(tmp_path / "False.safetensors"))


def with_unused_parameter() -> PreTrainedModel:
    model = init_model(NEOX, VOCAB, 0)
    model.register_parameter("unused", torch.nn.Parameter(torch.ones(2, 2)))
    return model


def _rank_with_unused_parameter(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    _, saved = train_from(with_unused_parameter(), SETTINGS)
    if rank == 0:
        save_file(
            {f"{step}/{name}": weights[name] for step, weights in saved.items() for name in weights}, folder / "saved"
        )
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_train_a_model_with_a_parameter_without_gradient(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank_with_unused_parameter, (tmp_path,), nprocs=2)
    outcome = load_file(tmp_path / "saved")
    _, alone = train_from(with_unused_parameter(), SETTINGS)
    for step, weights in alone.items():
        assert largest_difference({name: outcome[f"{step}/{name}"] for name in weights}, weights) < 1e-4


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_router_noise_is_not_part_of_the_objective(gradient_checkpointing: bool) -> None:
    """Experts of PhiMoE are drawn at random in training mode, whatever the config says."""
    config = {**TIED_LLAMA, "architecture": "phimoe", "num_local_experts": 4, "num_key_value_heads": 2}
    config |= {"router_jitter_noise": 0.3, "input_jitter_noise": 0.3}
    settings = dataclasses.replace(SETTINGS, epochs=1, gradient_checkpointing=gradient_checkpointing)
    losses = []
    for seed in (1, 2):
        model = init_model(config, VOCAB, 0)
        torch.manual_seed(seed)
        losses.append([step.loss for step in train_from(model, settings)[0].steps])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("long_rows", "fits"), [(0, True), (1, False)])
def test_fsdp_refuses_rows_of_both_kinds_of_rotary_frequencies(long_rows: int, fits: bool, tmp_path: Path) -> None:
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    config = {
        **TIED_LLAMA,
        "architecture": "phi3",
        "num_key_value_heads": 2,
        "original_max_position_embeddings": 30,
        "rope_parameters": {**longrope, "original_max_position_embeddings": 30},
    }
    ids = [[*range(10)] * (4 if row < long_rows else 1) for row in range(8)]
    rows = TokenRows.from_rows(ids, [[(2, len(row))] for row in ids])
    settings = dataclasses.replace(SETTINGS, epochs=1, shard=True)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        with nullcontext() if fits else pytest.raises(ValueError, match="strategy ddp"):
            finetune(init_model(config, VOCAB, 0), rows, TokenRows.from_rows([], []), settings, Hooks())
    finally:
        dist.destroy_process_group()


def test_fsdp_without_a_process_group_raises() -> None:
    with pytest.raises(ValueError, match="process group"):
        train(dataclasses.replace(SETTINGS, shard=True))
