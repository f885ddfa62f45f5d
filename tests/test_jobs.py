"""The files in jobs/ are valid jobs and experiments."""

from pathlib import Path

import pytest

from s2l_ray.config.experiment import is_experiment, load_experiment
from s2l_ray.config.load import load_config
from s2l_ray.core.selection.registry import SELECTORS

JOBS = Path(__file__).parents[1] / "jobs"
# a manifest of Kubernetes
OTHERS = {"rayjob.yaml"}
FILES = sorted(path for path in JOBS.glob("*.yaml") if path.name not in OTHERS)
# methods that need more than the losses of real.yaml
APART = {"loss_drop", "column"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_job_is_valid(path: Path) -> None:
    runs = [job.config.run for job in load_experiment(path).jobs] if is_experiment(path) else [load_config(path).run]
    assert len(set(runs)) == len(runs) > 0


def test_the_experiment_of_selectors_has_every_method() -> None:
    methods = {job.config.select.method for job in load_experiment(JOBS / "selectors.yaml").jobs}
    assert methods == SELECTORS.keys() - APART
