"""task: the rows of `proxy.train_on` -> a dataset of their own, prepared like the pool."""

from dataclasses import replace

from s2l_ray.config.identity import task_config
from s2l_ray.stages.build import Product
from s2l_ray.stages.prepare import PrepareBuild, prepare


def prepare_task(build: PrepareBuild) -> Product:
    return prepare(replace(build, config=task_config(build.config)))
