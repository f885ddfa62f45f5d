"""Start-up: commands that compute nothing import no engine and start quickly."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.jobs import small_job
from tests.support.small_store import SUBSET_NAME, Store, write_store

ENGINES = {"ray", "torch", "transformers", "plotly"}
# CPU time, which on an idle machine is the time on the clock, and which other processes hardly change
SECONDS = 0.5
TRIES = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_job(tmp_path_factory.mktemp("job"), rows=60)


def engines_imported_by(code: str) -> set[str]:
    """The engines that a process has imported after it ran this code."""
    report = "import sys\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    modules = done.stderr.split()
    assert "s2l_ray" in modules
    return ENGINES & {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    "code",
    [
        "import s2l_ray",
        "from s2l_ray import Artifact, Config, Plan, load_config, open_artifact, plan, report, run",
        "import s2l_ray.core",
        "import s2l_ray.cli",
        "import s2l_ray.pipeline.steps, s2l_ray.pipeline.preflight",
        "import s2l_ray.terminal.plan_view, s2l_ray.terminal.store_views, s2l_ray.terminal.verbs.jobs",
    ],
)
def test_imports_without_engines(code: str) -> None:
    assert engines_imported_by(code) == set()


def test_commands_without_engines(store: Store, job: Path, tmp_path: Path) -> None:
    subset = str(store.root / "subset" / SUBSET_NAME)
    commands = [
        ["--help"],
        ["plan", str(job)],
        ["plan", str(job), "--json", "--to", "clusters"],
        ["ls", str(store.root)],
        ["show", subset],
        ["verify", str(store.root)],
        ["gc", str(store.root)],
        ["gc", str(store.root), "--weights"],
        ["export", subset, "--to", str(tmp_path / "rows.jsonl")],
    ]
    code = f"from s2l_ray.cli import app\nfor command in {commands}: app(command, standalone_mode=False)"
    assert engines_imported_by(code) == set()
    assert (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize("arguments", [("-c", "import s2l_ray"), ("-m", "s2l_ray", "--help")], ids=" ".join)
def test_seconds_to_start(arguments: tuple[str, ...]) -> None:
    seconds = []
    for _ in range(TRIES):
        before = cpu_seconds_of_children()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        seconds.append(cpu_seconds_of_children() - before)
    assert min(seconds) <= SECONDS


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
