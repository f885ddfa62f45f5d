"""Time and memory of the workers of a stage, from their usage records."""

from collections.abc import Sequence
from dataclasses import dataclass

from s2l_ray.runtime.contracts import Usage


@dataclass
class UsageMeter:
    """Sums over the pools, one-node functions and trainings of one stage.

    worker_seconds: of all workers together. workers: at the same time. alone_seconds: of one worker while no other
    ran. peak_bytes: the most memory of a worker.
    """

    worker_seconds: float = 0.0
    workers: int = 0
    alone_seconds: float = 0.0
    peak_bytes: int = 0

    def add(self, usage: Sequence[Usage]) -> None:
        """Add the workers of one pool, function or training."""
        beside = [one for one in usage if not one.alone]
        self.worker_seconds += sum(one.seconds for one in beside)
        self.alone_seconds += sum(one.seconds for one in usage if one.alone)
        self.workers = max(self.workers, len(beside))
        self.peak_bytes = max([self.peak_bytes, *(one.peak_bytes for one in usage)])

    def timings(self) -> dict[str, float]:
        """The values for a manifest."""
        return {
            "worker_seconds": round(self.worker_seconds, 3),
            "workers": max(1, self.workers),
            "alone_seconds": round(self.alone_seconds, 3),
            "peak_bytes": self.peak_bytes,
        }
