"""The wheel: it holds the whole package, and runs outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.jobs import small_job

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "s2l_ray"


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, because a build writes into its source folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(PACKAGE, source / "s2l_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / name, source / name)
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", target, source)
    (built,) = target.glob("s2l_ray-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    files = {path.relative_to(CHECKOUT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    expected = {path for path in files if "__pycache__" not in path}
    stored = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert stored == expected


@pytest.mark.slow
def test_the_installed_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    installed, folder = tmp_path / "installed", tmp_path / "elsewhere"
    pip("install", "--no-deps", "--no-index", "--target", installed, wheel)
    folder.mkdir()
    job = small_job(tmp_path / "job", rows=60)

    def run(*command: str | Path) -> str:
        environment = os.environ | {"PYTHONPATH": str(installed)}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    module = run(sys.executable, "-c", "import s2l_ray, s2l_ray.cli; print(s2l_ray.__file__, s2l_ray.cli.__file__)")
    assert all(Path(path).is_relative_to(installed) for path in module.split())
    assert "plan" in run(sys.executable, "-m", "s2l_ray", "--help")
    assert "plan" in run(installed / "bin" / "s2l", "--help")
    planned = run(sys.executable, "-m", "s2l_ray", "plan", job)
    assert all(kind in planned for kind in ("dataset", "checkpoints", "trajectories", "clusters", "subset"))
    run(sys.executable, "-m", "s2l_ray", "demo", "rows")
    assert (folder / "rows" / "truth.jsonl").exists()
