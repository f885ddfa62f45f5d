"""The page in headless Chromium."""

import shutil
import subprocess
from pathlib import Path

import pytest

from s2l_ray.reporting.report import report
from tests.support.report_store import ReportStore

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_figures_are_drawn_without_errors(store: ReportStore, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    report(store.parts["subset"], str(page))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/user",
    ]
    size = ["--window-size=1200,20000", "--virtual-time-budget=10000"]
    command = [str(CHROMIUM), *flags, *size, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "CONSOLE" not in done.stderr
    for figure in ("sources", "lengths", "proxy", "data-map", "plane", "methods"):
        start = done.stdout.index(f'data-figure="{figure}"')
        assert "main-svg" in done.stdout[start : start + 2000], figure
    assert "<title>injected</title>" not in done.stdout
