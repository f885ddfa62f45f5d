"""The break-even point of a selection: after how many fine-tunings of the target it has paid for itself."""

import math
from dataclasses import dataclass

from s2l_ray.config.sections import Config
from s2l_ray.pipeline.costs import Cost
from s2l_ray.pipeline.estimates.record import Measured
from s2l_ray.pipeline.estimates.sizes import Sizes
from s2l_ray.pipeline.estimates.steps import estimate_step

UNITS = ("money", "seconds", "flops")


@dataclass(frozen=True)
class Payback:
    """Costs of one fine-tuning of the target, and of the selection, with what exists and what is missing.

    pool: of as many epochs as the job has, over the whole pool. subset: over the subset, as `target.compute` has it.
    same_epochs: over the subset for as many epochs. unpriced: kinds of the selection without a known cost. unit: in
    which the costs are compared, or an empty text. trainings, trainings_same_epochs: until the selection has paid for
    itself; None for never, or not known.
    """

    model: str
    compute: str
    pool: Cost
    subset: Cost
    same_epochs: Cost
    selection: Cost
    unpriced: tuple[str, ...]
    unit: str
    trainings: int | None
    trainings_same_epochs: int | None


def payback(
    config: Config, sizes: Sizes, measured: Measured, selection: Cost, unpriced: tuple[str, ...]
) -> Payback | None:
    """The break-even point; None for a job without a target."""
    if config.target.model is None:
        return None
    pool = _training(config, sizes, measured, rows="pool")
    subset = _training(config, sizes, measured, rows="subset")
    same = _training(config, sizes, measured, rows="subset", compute="same_epochs")
    unit = next((one for one in UNITS if None not in _values(one, pool, subset, same, selection)), "")
    model = config.target.model
    return Payback(
        model=model if isinstance(model, str) else str(model.get("architecture", "the target")),
        compute=config.target.compute if isinstance(config.target.compute, str) else "steps",
        pool=pool,
        subset=subset,
        same_epochs=same,
        selection=selection,
        unpriced=unpriced,
        unit=unit,
        trainings=trainings_until(*_values(unit, selection, pool, subset)) if unit else None,
        trainings_same_epochs=trainings_until(*_values(unit, selection, pool, same)) if unit else None,
    )


def trainings_until(selection: float | None, pool: float | None, subset: float | None) -> int | None:
    """Trainings on the subset, each cheaper than one on the pool, that save what the selection costs.

    None where a training on the subset saves nothing, or a cost is not known.
    """
    if selection is None or pool is None or subset is None or not subset < pool:
        return None
    return math.ceil(selection / (pool - subset))


def _values(unit: str, *costs: Cost) -> list[float | None]:
    return [getattr(one, unit) for one in costs]


def _training(config: Config, sizes: Sizes, measured: Measured, **changes: str) -> Cost:
    target = config.target.model_copy(update=changes)
    one = estimate_step("target", "", config.model_copy(update={"target": target}), sizes, measured)
    return Cost(one.flops, one.seconds, one.money)
