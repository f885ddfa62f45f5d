"""What tests share: one local Ray for the whole session, the folder of real rows where there is one, tiny models."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.azure import azure, running_azurite
from tests.support.gcs import gcs, running_gcs
from tests.support.hub_server import Hub, running_hub
from tests.support.s3 import free_ports, running_s3, s3

__all__ = ["azure", "gcs", "running_azurite", "running_gcs", "running_s3", "s3"]  # fixtures

# A hub on this machine, which runs only while a test uses it. The libraries read this when they are imported.
(HUB_PORT,) = free_ports(1)
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_PORT}"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="s2l-hub-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves its workers on a machine that does anything else

settings.register_profile("tests", deadline=None)  # a busy machine is no failure
settings.load_profile("tests")

# a shell that starts the tests in the background has them ignore Ctrl-C, and so would every program that they start
signal.signal(signal.SIGINT, signal.default_int_handler)

ROWS = Path(os.environ.get("S2L_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real rows, the Pythia tokenizer and published trajectories."""
    if not (ROWS / "train").is_dir():
        pytest.skip(f"no folder of real rows at {ROWS}; name one in S2L_DATA")
    return ROWS


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hashes of files are cached in a folder of the tests' own."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def hub_port() -> int:
    """The port of this machine where huggingface_hub and datasets expect the hub."""
    return HUB_PORT


@pytest.fixture
def hub(hub_port: int) -> Iterator[Hub]:
    """An empty hub, which huggingface_hub and datasets use instead of huggingface.co."""
    with running_hub(hub_port) as running:
        yield running


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for every test that asks for it."""
    from s2l_ray.runtime.session import connect

    with connect():
        yield


@pytest.fixture(params=["disk", "s3", "gcs", "azure"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder in every kind of store."""
    return str(tmp_path / "store") if request.param == "disk" else str(request.getfixturevalue(request.param))
