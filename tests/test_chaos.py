"""A few kills at seeded moments on several nodes and a store with faults; `python -m bench.chaos` does many."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_repeatedly_ends_in_the_same_subset(tmp_path: Path) -> None:
    results = tmp_path / "chaos.json"
    arguments = ["--runs", "1", "--kills", "3", "--rows", "150", "--seed", "7", "--results", str(results)]
    environment = {**os.environ, "RAY_ADDRESS": "", "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "bench.chaos", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=environment, timeout=850)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = {row["name"].strip(): row["figure"] for row in json.loads(results.read_text())["rows"]}
    assert rows["faults of the runs' artifacts"] == 0
    assert rows["kills"] >= 2, "the run ended before it was disturbed"
    assert rows["calls of storage that went wrong"] > 0
