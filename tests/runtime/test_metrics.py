"""Metrics of a run: the values that reach Ray, and the names in the Grafana dashboard."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from s2l_ray.runtime import metrics
from s2l_ray.runtime.contracts import Progress
from s2l_ray.runtime.metrics import RunMetrics

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana.json"
NAMES = {f"ray_{name}" for name in (metrics.UNITS_LEFT, metrics.FAILURES, *metrics.COUNTED.values())}
EXPORT_SECONDS = 60.0


def test_the_dashboard_queries_exactly_the_metrics_of_a_run() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert {name for query in queries for name in re.findall(r"\bray_\w+", query)} == NAMES
    tags = {tag for query in queries for group in re.findall(r"by \(([^)]*)\)", query) for tag in group.split(", ")}
    assert tags == set(metrics.TAGS)
    variables = [one["definition"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    assert variables and all(set(re.findall(r"\bray_\w+", one)) < NAMES for one in variables)


@pytest.mark.long
def test_ray_exports_the_metrics_of_a_driver(ray_session: None) -> None:
    import ray

    recorded = RunMetrics("exported")
    for done, rows in ((1, 100), (2, 250)):
        recorded.record(Progress("trajectories", done, 8, "units", {"rows": rows, "tokens": 10 * rows}, 1.0))
    recorded.record(Progress("trajectories", 1, 2, "shards joined", {"rows": 30}, 1.0))
    recorded.record(Progress("trajectories", failures=2))
    RunMetrics("another").record(Progress("trajectories", 3, 4, "units", {"rows": 7}, 1.0, failures=1))
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    labels, others = {"kind": "trajectories", "run": "exported"}, {"kind": "trajectories", "run": "another"}
    expected = {metrics.UNITS_LEFT: 1, metrics.FAILURES: 2, "s2l_rows_total": 280, "s2l_tokens_total": 2500}
    assert exported(address, labels, len(expected)) == {f"ray_{name}": float(value) for name, value in expected.items()}
    second = {"ray_s2l_units_left": 1, "ray_s2l_rows_total": 7, "ray_s2l_failures_total": 1}
    assert exported(address, others, len(second)) == second


def exported(address: str, labels: dict[str, str], count: int) -> dict[str, float]:
    """Values of the metrics of this package with these labels, once there are `count` of them."""
    deadline, found = time.monotonic() + EXPORT_SECONDS, dict[str, float]()
    while len(found) < count and time.monotonic() < deadline:
        time.sleep(1)
        text = urllib.request.urlopen(address, timeout=10).read().decode()
        for name, tags, value in re.findall(r"^(ray_s2l_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            if labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', tags)).items():
                found[name] = float(value)
    return found
