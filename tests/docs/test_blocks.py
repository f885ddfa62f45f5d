"""Blocks of the documentation that are marked `test` run, in the order of their page, and so does the notebook."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from s2l_ray.demo.dataset import make_demo
from tests.docs.pages import CHECKOUT, PAGES, RUN, SHELL, Block, blocks
from tests.support.jobs import small_job

pytestmark = pytest.mark.long

NOTEBOOK = CHECKOUT / "docs" / "explore.ipynb"
TESTED = [page for page in PAGES if any(block.mark == RUN for block in blocks(page))]
SECONDS = 1200


def run(command: list[str], folder: Path, where: str) -> None:
    """Run a program in `folder`, where `s2l` and `s2l_ray` are those of this checkout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(CHECKOUT), "RAY_ADDRESS": "", "COLUMNS": "120"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{where}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def run_block(block: Block, folder: Path) -> None:
    text = re.sub(r"(\S+/)(\w+)/FINGERPRINT", lambda found: newest(folder, found[1], found[2]), block.text)
    if block.language == SHELL:
        run(["bash", "-euo", "pipefail", "-c", text], folder, str(block))
    else:
        run([sys.executable, "-c", text], folder, str(block))


def newest(folder: Path, root: str, kind: str) -> str:
    """The newest artifact of a kind, for the placeholder FINGERPRINT."""
    found = max((folder / root / kind).iterdir(), key=lambda path: path.stat().st_mtime)
    return f"{root}{kind}/{found.name}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows.jsonl, a small job.yaml over it, and its complete run, as at the end of the page start.md."""
    folder = tmp_path_factory.mktemp("finished")
    job = small_job(folder)
    (folder / "demo" / "rows" / "everyday.jsonl").rename(folder / "rows.jsonl")
    source = {"path": "rows.jsonl", "source": {"field": "source"}}
    values = yaml.safe_load(job.read_text()) | {"root": "runs/rows", "run": "rows"}
    job.write_text(yaml.safe_dump({**values, "data": {**values["data"], "root": ".", "sources": [source]}}))
    run(["s2l", "run", "job.yaml"], folder, "finished run")
    return folder


def folder_for(page: Path, folder: Path, request: pytest.FixtureRequest) -> Path:
    """A page that reads job.yaml starts with a finished run of it, any other with rows and the jobs of the checkout."""
    text = "".join(block.text for block in blocks(page) if block.mark == RUN)
    if "job.yaml" in text and "s2l init" not in text:
        return shutil.copytree(request.getfixturevalue("finished"), folder, dirs_exist_ok=True)
    shutil.copytree(CHECKOUT / "jobs", folder / "jobs")
    make_demo(folder / "generated")
    shutil.copy(folder / "generated" / "rows" / "everyday.jsonl", folder / "rows.jsonl")
    return folder


@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize("page", TESTED, ids=lambda page: page.name)
def test_blocks_of_a_page_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = folder_for(page, tmp_path, request)
    for block in blocks(page):
        if block.language == "yaml" and block.mark:
            (folder / block.mark).write_text(block.text)
        elif block.mark == RUN:
            run_block(block, folder)


@pytest.mark.timeout(3 * SECONDS)
def test_the_notebook_runs(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    texts = ["".join(cell["source"]) for cell in cells]
    parameters = next(number for number, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", []))
    texts[parameters] = "job, overrides = 'job.yaml', []"
    run([sys.executable, "-c", "\n".join(map(displayed, texts))], folder, NOTEBOOK.name)


def displayed(cell: str) -> str:
    """The cell with its last value turned into HTML, as a notebook does."""
    *_, last = ast.parse(cell).body
    if not isinstance(last, ast.Expr):
        return cell
    lines = cell.splitlines()
    value = "\n".join(lines[last.lineno - 1 :])
    shown = f"shown = (\n{value}\n)\ngetattr(shown, '_repr_html_', shown.__repr__)()"
    return "\n".join([*lines[: last.lineno - 1], shown])
