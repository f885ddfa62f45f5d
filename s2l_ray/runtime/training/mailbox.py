"""The words between a training's workers and its driver.

In: records of steps at rank 0, the wish to stop at the driver. Out: progress and failures at the driver, and after each
step at rank 0 whether to save a state or to stop. They meet in a mailbox, an actor on the driver's node, since Ray
Train's own reports are barriers over all ranks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray

from s2l_ray.core.training.settings import Signal
from s2l_ray.runtime.failures import Record
from s2l_ray.runtime.training.job import TrainProgress

if TYPE_CHECKING:
    from s2l_ray.core.training.records import StepRecord

POST_SECONDS = 0.5


@ray.remote(num_cpus=0)
class Mailbox:
    """Between driver and workers: progress and failures one way, the wish to stop the other."""

    def __init__(self) -> None:
        self._progress: TrainProgress | None = None
        self._failures: list[Record] = []
        self._places: dict[int, str] = {}
        self._stop = False

    def post(self, progress: TrainProgress) -> bool:
        """Leave the latest progress; says whether to stop."""
        self._progress = progress
        return self._stop

    def post_failure(self, failure: Record) -> None:
        """Leave what a worker failed with."""
        self._failures.append(failure)

    def take(self) -> TrainProgress | None:
        """The latest progress, if it is new."""
        taken, self._progress = self._progress, None
        return taken

    def failures(self) -> list[Record]:
        """All that was left, in order of arrival."""
        return self._failures

    def post_place(self, rank: int, place: str) -> None:
        """Leave where a worker runs."""
        self._places[rank] = place

    def places(self) -> list[str]:
        """Where each worker runs, by rank."""
        return [f"rank {rank}: {place}" for rank, place in sorted(self._places.items())]

    def stop(self) -> None:
        """Say so to rank 0 at its next post."""
        self._stop = True


@dataclass
class Reporter:
    """Rank 0's clock: when to tell the driver, when to save a state, when to stop."""

    mailbox: Any
    total: int
    batch_size: int
    save_seconds: float
    posted: float = 0.0
    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    steps: int = 0
    tokens: int = 0
    answer: Any = None
    stopping: bool = False

    def step(self, record: StepRecord) -> None:
        """Take in a step; tell the driver, twice a second at most and at the last step."""
        now = time.monotonic()
        self.steps += 1
        self.tokens += record.tokens
        if now - self.posted < POST_SECONDS and record.step < self.total:
            return
        self.posted = now
        seconds = now - self.began
        progress = TrainProgress(
            step=record.step,
            total_steps=self.total,
            loss=record.loss,
            learning_rate=record.learning_rate,
            tokens_per_second=self.tokens / seconds,
            examples_per_second=self.steps * self.batch_size / seconds,
            seconds_left=(self.total - record.step) * seconds / self.steps,
        )
        self._hear()
        self.answer = self.mailbox.post.remote(progress)

    def signal(self, step: int) -> Signal:
        """What to do after a step. The last one is followed by the tables and needs no state."""
        self._hear()
        if self.stopping:
            return "save and stop"
        if time.monotonic() - self.saved < self.save_seconds or step == self.total:
            return "go on"
        return "save"

    def state_is_saved(self) -> None:
        """Begin to count anew until the next state."""
        self.saved = time.monotonic()

    def _hear(self) -> None:
        """Read the driver's answer to the last post once it is there."""
        if self.answer is not None and ray.wait([self.answer], timeout=0)[0]:
            self.stopping = self.stopping or ray.get(self.answer)
            self.answer = None
