"""Records of comparisons: with other methods, between the arms of an experiment, and the scores of a target."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodOverlap:
    """The subset of another method with the same budget, seed and constraints. overlap: shared rows over the rows of
    the smaller subset. by_chance: that of random subsets of these sizes."""

    method: str
    summary: str
    rows: int
    shared: int
    overlap: float
    by_chance: float | None


@dataclass(frozen=True)
class SeedOverlap:
    """Overlap between the subsets of one method with several values of select.seed, over all pairs."""

    method: str
    seeds: int
    mean_overlap: float
    lowest_overlap: float
    by_chance: float


@dataclass(frozen=True)
class Methods:
    """Overlaps with other methods, and between seeds of the method; stability is None for a method without a seed."""

    overlaps: tuple[MethodOverlap, ...]
    stability: SeedOverlap | None


@dataclass(frozen=True)
class ArmScore:
    """One score of an arm: its mean over the seeds and standard error, and the paired difference to the reference arm
    with the ends of its 95 % interval."""

    mean: float
    error: float | None
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ArmRow:
    """One arm of an experiment, as means over its seeds. method: of the selection, or the rows trained on."""

    arm: str
    method: str
    rows: float | None
    target_tokens: float | None
    overlaps: dict[str, float | None]
    stability: float | None
    selection_seconds: float | None
    training_seconds: float | None
    scores: dict[str, ArmScore]


@dataclass(frozen=True)
class Experiment:
    """Arms and scores of an experiment. varied: keys that a seed sets. losses: scores that are better where lower.

    reference: arm of the paired differences. overlaps_with: arms to which the overlaps of selections refer.
    """

    run: str
    shown: str
    seeds: tuple[int, ...]
    varied: tuple[str, ...]
    arms: tuple[ArmRow, ...]
    scores: tuple[str, ...]
    losses: tuple[str, ...]
    reference: str | None
    overlaps_with: tuple[str, ...]
    verdicts: dict[str, str]


@dataclass(frozen=True)
class Evaluation:
    """The evaluated target. rows: subset, pool or none. loss_by_source: mean loss of the held-out rows, in nats; tasks:
    score of each task, and error: its standard error."""

    rows: str
    macro_loss: float | None
    micro_loss: float | None
    loss_by_source: dict[str, float]
    rows_by_source: dict[str, int]
    tasks: dict[str, float]
    errors: dict[str, float | None]
