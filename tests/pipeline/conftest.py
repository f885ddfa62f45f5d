"""A job that ran to its end, shared by the tests of the pipeline in one process."""

from pathlib import Path

import pytest

from s2l_ray.config.load import load_config
from s2l_ray.pipeline.run import run
from tests.support.jobs import small_job


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The job file of a job whose artifacts are all complete."""
    job = small_job(tmp_path_factory.mktemp("finished"))
    run(load_config(job))
    return job
