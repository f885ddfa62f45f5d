"""The section `evaluate` of a job file: what a target model is measured on."""

from s2l_ray.config.types import Precision, Section


class Evaluate(Section):
    """The evaluation of the target. loss: on the held-out rows. dtype: of the model's weights."""

    loss: bool = True
    dtype: Precision = "float32"
