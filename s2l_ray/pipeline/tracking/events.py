"""Events of a run: `events.jsonl` in its folder, one JSON object a line.

Object stores cannot append to a file. The driver holds the lines and writes the whole file at each `flush`, so that a
reader always sees complete lines. Every call of `run` has a folder of its own, so a resumed run leaves the events of
the interrupted one as they are; the folders sort by time.
"""

import json
from datetime import UTC, datetime

from s2l_ray import storage
from s2l_ray.runtime.contracts import Progress


class EventLog:
    """The events of one run, to be written to `uri`."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lines: list[str] = []
        self._written = 0

    def add(self, progress: Progress) -> None:
        """Add an event with the current time in UTC."""
        self._lines.append(json.dumps(event(progress, datetime.now(UTC)), ensure_ascii=False))

    def flush(self) -> None:
        """Write all events, if there are new ones."""
        if len(self._lines) > self._written:
            storage.write_bytes(self._uri, "".join(f"{line}\n" for line in self._lines).encode())
            self._written = len(self._lines)


def event(progress: Progress, time: datetime) -> dict[str, object]:
    """The fields of a progress record that have a value, after the time."""
    position = {"done": progress.done, "total": progress.total, "unit": progress.unit} if progress.total else {}
    others = {
        "counts": progress.counts,
        "seconds": round(progress.seconds, 3),
        "rates": {name: round(rate, 3) for name, rate in progress.rates.items()},
        "values": progress.values,
        "failures": progress.failures,
        "note": progress.note,
        "warning": progress.warning,
        "built": progress.built,
    }
    known = {name: value for name, value in others.items() if value}
    return {"time": time.isoformat(timespec="milliseconds"), "kind": progress.kind, **position, **known}
