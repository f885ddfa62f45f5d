"""Metrics of a run for Ray's dashboard and any Prometheus server that reads the cluster.

The driver reports them, since it lives as long as the run. Ray exports each name with the prefix `ray_`;
`docs/grafana.json` is a dashboard of these.
"""

from collections import Counter as Counts

from ray.util.metrics import Counter, Gauge

from s2l_ray.runtime.contracts import Progress

TAGS = ("kind", "run")
UNITS_LEFT = "s2l_units_left"
COUNTED = {"rows": "s2l_rows_total", "tokens": "s2l_tokens_total"}
FAILURES = "s2l_failures_total"


class RunMetrics:
    """Units left, rows, tokens and failed attempts of one run, by kind of artifact. Needs a connection to Ray."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._units_left = Gauge(UNITS_LEFT, "Units left in the current pass of a stage.", TAGS)
        self._counted = {
            unit: Counter(name, f"{unit.capitalize()} that a run processed, in every pass.", TAGS)
            for unit, name in COUNTED.items()
        }
        self._failures = Counter(FAILURES, "Attempts that failed, also of units that a retry completed.", TAGS)
        self._last = Counts[tuple[str, str, str]]()

    def record(self, progress: Progress) -> None:
        """Set or increase what a progress record changes."""
        tags = {"kind": progress.kind, "run": self._run}
        if progress.total or progress.built:
            self._units_left.set(0.0 if progress.built else progress.total - progress.done, tags)
        if progress.failures:
            self._failures.inc(progress.failures, tags)
        for unit, count in progress.counts.items():
            before = self._last[key := (progress.kind, progress.unit, unit)]
            if unit in self._counted and count != before:
                self._counted[unit].inc(count - before if count > before else count, tags)  # another pass begins at 0
            self._last[key] = count
