"""Checks of the method of selection before a run starts: does the job record what the method reads?"""

from s2l_ray.artifacts.facts import CheckpointsFacts, DatasetFacts, TrajectoriesFacts
from s2l_ray.catalog.pool_columns import columns_of_needs
from s2l_ray.config.budget import ROWS, budget_unit
from s2l_ray.config.identity import checkpoint_origins
from s2l_ray.config.sections import Config
from s2l_ray.config.subsections import LossesFrom
from s2l_ray.core.selection.needs import At, Needs, RecordedSteps
from s2l_ray.core.selection.s2l import S2LParams
from s2l_ray.core.training.schedule import CheckpointGrid, checkpoint_steps, steps_per_epoch
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import Plan


def check_selection(planned: Plan) -> None:
    """Raise `ConfigError` where the method reads what the job does not record, with the key to add."""
    config = planned.config
    select, needs = config.select, config.select.needs
    if config.without_data:
        _check_row_numbers(planned)
    if isinstance(select.params, S2LParams) and needs.without_targets and config.cluster.features == "embeddings":
        raise ConfigError(
            "select.compat: official of s2l needs clusters of trajectories; set cluster.features: trajectories, or "
            "remove compat"
        )
    if "trajectories" not in planned:
        return
    trajectories = planned.artifact("trajectories")
    if config.score.losses_from is not None:
        _check_imported(config.score.losses_from, select.method, needs)
    if trajectories is not None:
        columns_of_needs(select, {"trajectories": trajectories})
    elif config.score.losses_from is None:
        _check_statistic(config, needs)
        _check_checkpoints(planned, needs)


def _check_row_numbers(planned: Plan) -> None:
    """A job of losses alone has no text, and lengths only where a column holds them."""
    select, losses = planned.config.select, planned.config.score.losses_from
    unit = budget_unit(select.budget)
    if "embeddings" in planned or unit == "tokens":
        raise ConfigError(
            f"select: method {select.method} with budget {select.budget} reads the text of rows, and a job of losses "
            "alone has none; add data.sources and data.tokenizer",
            page="docs/imports.md#losses-alone",
        )
    if (select.needs.reads_lengths or unit != ROWS) and (losses is None or losses.tokens is None):
        raise ConfigError(
            f"select: method {select.method} with budget {select.budget} reads lengths, and a job of losses alone has "
            "none; add score.losses_from.tokens, or data.sources and data.tokenizer",
            page="docs/imports.md#losses-alone",
        )


def _check_imported(losses: LossesFrom, method: str, needs: Needs) -> None:
    """Imported losses hold one other statistic at most, and not which step ends an epoch."""
    recorded = ("loss", "mean_probability") if losses.values == "logits" else ("loss",)
    if needs.statistic not in (None, *recorded):
        raise ConfigError(
            f"select.method: {method} reads {needs.statistic}, and score.losses_from with values: {losses.values} has "
            f"{' and '.join(recorded)} alone; choose a method that reads these, or compute scores with a proxy"
        )
    if At.FIRST_EPOCH_END in needs.checkpoints:
        raise ConfigError(
            f"select.method: {method} reads the checkpoint at the end of the first epoch, which score.losses_from does "
            "not name; add its step as select.first"
        )


def _check_statistic(config: Config, needs: Needs) -> None:
    if needs.statistic not in (None, "loss", *config.score.statistics):
        statistics = ", ".join([*config.score.statistics, str(needs.statistic)])
        raise ConfigError(
            f"select.method: {config.select.method} reads {needs.statistic}, which is not recorded; write "
            f"score.statistics: [{statistics}]",
            page="docs/methods.md#methods-that-rank",
        )


def _check_checkpoints(planned: Plan, needs: Needs) -> None:
    """Check the steps that the method names against those that are saved and scored, as far as these are known."""
    config = planned.config
    recorded = _recorded_steps(planned)
    if recorded is None:
        if At.FIRST_EPOCH_END in needs.checkpoints and not config.proxy.checkpoints.epoch_ends:
            raise ConfigError(
                f"select.method: {config.select.method} reads the checkpoint at the end of the first epoch; add "
                "epoch_ends: true to proxy.checkpoints",
                page="docs/methods.md#methods-that-rank",
            )
        return
    if config.score.checkpoints != "all":
        steps = [step for step in recorded.steps if step in config.score.checkpoints]
        recorded = RecordedSteps(steps, recorded.epoch_ends)
    try:
        recorded.columns(needs.checkpoints)
    except ValueError as error:
        raise ConfigError(
            f"select.method: {config.select.method}: {error}", page="docs/methods.md#methods-that-rank"
        ) from error


def check_steps(planned: Plan) -> None:
    """Raise `ConfigError` for steps of `score.checkpoints` or `cluster.checkpoints` that will not be recorded."""
    config, trajectories = planned.config, planned.artifact("trajectories")
    if trajectories is not None:
        steps = trajectories.facts(TrajectoriesFacts).steps
    elif config.score.losses_from is not None:
        steps = sorted(config.score.losses_from.columns)
    else:
        recorded = _recorded_steps(planned)
        steps = config.score.steps(list(recorded.steps)) if recorded is not None else []
    if steps and "clusters" in planned and config.cluster.features == "trajectories":
        config.cluster.columns(steps)


def _recorded_steps(planned: Plan) -> RecordedSteps | None:
    """Steps of the checkpoints, from the artifact or from the grid and the number of rows; None if unknown."""
    checkpoints, proxy = planned.artifact("checkpoints"), planned.config.proxy
    dataset = planned.artifact("dataset" if proxy.train_on is None else "task")
    if checkpoints is not None:
        facts = checkpoints.facts(CheckpointsFacts)
        return RecordedSteps(facts.steps, facts.epoch_ends)
    if isinstance(proxy.checkpoints_from, list):
        return RecordedSteps(sorted(one.step for one in proxy.checkpoints_from))
    if proxy.checkpoints_from is not None:
        return RecordedSteps(sorted(one.record.step for one in checkpoint_origins(planned.config)))
    rows = proxy.train_examples
    if rows is None and dataset is not None:
        rows = dataset.facts(DatasetFacts).ok
    if rows is None or rows < proxy.batch_size:
        return None
    per_epoch = steps_per_epoch(rows, proxy.batch_size)
    total = per_epoch * proxy.epochs
    steps = checkpoint_steps(CheckpointGrid(**proxy.checkpoints.model_dump()), total, per_epoch, proxy.batch_size)
    return RecordedSteps(steps, range(per_epoch, total + 1, per_epoch))
