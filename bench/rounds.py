"""What the benchmarks share: contestants that take turns, goals, one table and one JSON file of results.

A machine's speed drifts, so only ratios inside a round are judged: every contestant runs once a round, and a row's
figure is the median of its ratios over the rounds.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds of one run: on the wall, and of processor time over all threads of the process."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Row:
    """A measured figure and, where it is judged, what it must be and what we are after."""

    name: str
    values: Sequence[float]
    must: float | None = None
    after: float | None = None
    lower_is_better: bool = False
    remark: str = ""

    @property
    def figure(self) -> float:
        """The median over rounds."""
        return median(self.values)

    def meets(self, goal: float | None) -> bool | None:
        """Whether the figure is at least as good as the goal; None if there is none."""
        if goal is None:
            return None
        return self.figure <= goal if self.lower_is_better else self.figure >= goal


@dataclass
class Report:
    """The rows of one benchmark run, in the order they were measured."""

    benchmark: str
    settings: Mapping[str, object]
    packages: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Keep a row and print it."""
        self.rows.append(row)
        spread = f"{min(row.values):.3f}..{max(row.values):.3f}"
        goals = "" if row.must is None else f"must {row.must:g}, after {row.after:g}: {_verdict(row)}"
        print(f"{row.name:<62} {row.figure:>9.3f}  {spread:>15}  {goals}{row.remark}", flush=True)

    def skip(self, what: str, why: str) -> None:
        """Note what could not be measured here."""
        self.skipped.append(f"{what}: {why}")
        print(f"skipped {what}: {why}", flush=True)

    def finish(self, path: Path) -> int:
        """Write the JSON file; 1 if a row misses what it must meet, else 0."""
        record = {
            "benchmark": self.benchmark,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": {name: _version(name) for name in self.packages},
            "settings": dict(self.settings),
            "rows": [asdict(row) | {"figure": row.figure, "verdict": _verdict(row)} for row in self.rows],
            "seconds": self.seconds,
            "skipped": self.skipped,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        missed = [row.name for row in self.rows if row.meets(row.must) is False]
        print(f"written {path}" + (f"; missed: {', '.join(missed)}" if missed else "; every goal that must hold holds"))
        return 1 if missed else 0


def take_turns(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Timing]]:
    """Timings of every contestant, one a round, the order turned by one each round.

    A contestant that returns a Timing is timed by that: it has left out what the comparison is not about.
    """
    names = list(contestants)
    timings: dict[str, list[Timing]] = {name: [] for name in names}
    for turn in range(rounds):
        for position in range(len(names)):
            name = names[(position + turn) % len(names)]
            since = now()
            own = contestants[name]()
            timings[name].append(own if isinstance(own, Timing) else passed(since))
    return timings


def now() -> Timing:
    """The clocks."""
    return Timing(time.perf_counter(), time.process_time())


def passed(since: Timing) -> Timing:
    """Seconds since `now` was called."""
    clocks = now()
    return Timing(clocks.wall - since.wall, clocks.cpu - since.cpu)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """above / below, round by round."""
    return [first / second for first, second in zip(above, below, strict=True)]


def machine() -> dict[str, object]:
    """The processor, its cores, and how busy it was when the run ended."""
    name = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "load": list(os.getloadavg()),
        "python": platform.python_version(),
    }


def _verdict(row: Row) -> str:
    if row.must is None:
        return "reported"
    return "beyond" if row.meets(row.after) else "met" if row.meets(row.must) else "MISSED"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
