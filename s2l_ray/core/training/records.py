"""Records of a training run: one a step, one a checkpoint. Free of torch, so that the driver can read them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step. loss: of its global batch before the update; tokens: without padding.

    target_tokens: those the loss averages over. gradient_norm: before clipping. seconds: of the step.
    """

    step: int
    epoch: float
    examples_seen: int
    tokens: int
    target_tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float


@dataclass(frozen=True)
class CheckpointRecord:
    """The model after `step` updates.

    learning_rate: of the last update, 0 at step 0. training_loss: per target token, over the steps since the previous
    checkpoint; None at step 0. held_out_loss: per target token; None without held-out rows. Only the step is known of
    an imported checkpoint.
    """

    step: int
    epoch: float | None = None
    examples_seen: int | None = None
    learning_rate: float | None = None
    training_loss: float | None = None
    held_out_loss: float | None = None
