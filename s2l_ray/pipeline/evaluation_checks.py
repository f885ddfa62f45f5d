"""Checks of an evaluation before a run starts anything."""

from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import Plan


def check_evaluation(planned: Plan) -> None:
    """Raise `ConfigError` for an evaluation without anything to evaluate on."""
    config = planned.config
    if not config.evaluate.loss:
        raise ConfigError("evaluate.loss: false leaves nothing to evaluate; set evaluate.loss: true")
    dataset = planned.artifact("dataset")
    if config.data.held_out is None:
        raise ConfigError(
            "evaluate.loss: needs held-out rows; add data.held_out, e.g. {per_source: 200} (which changes the pool)"
        )
    if dataset is not None and not sum(dataset.facts(DatasetFacts).held_out.values()):
        raise ConfigError("evaluate.loss: the sources are too small for data.held_out; no row was held out")
