"""Progress and failures from the workers of a training to its driver, and the stop request back.

The mailbox is an actor on the driver's node. Ray Train's own reports would be barriers over all ranks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.core.training.settings import Signal
from s2l_ray.runtime.contracts import ActorHandle, Failure
from s2l_ray.runtime.training.job import TrainProgress

if TYPE_CHECKING:
    from s2l_ray.core.training.records import StepRecord

POST_SECONDS = 0.5


@ray.remote(num_cpus=0)
class Mailbox:
    """The latest progress, all failures and the processes of a training, and whether it is to stop."""

    def __init__(self) -> None:
        self._progress: TrainProgress | None = None
        self._failures: list[Failure] = []
        self._workers: dict[int, str] = {}
        self._stop = False

    def register(self, rank: int, process: str) -> None:
        """Record the process of a worker."""
        self._workers[rank] = process

    def workers(self) -> list[str]:
        """One line for each registered worker, by rank."""
        return [f"rank {rank}: {process}" for rank, process in sorted(self._workers.items())]

    def post(self, progress: TrainProgress) -> bool:
        """Replace the latest progress. Returns whether to stop."""
        self._progress = progress
        return self._stop

    def take(self) -> TrainProgress | None:
        """The latest progress, once."""
        taken, self._progress = self._progress, None
        return taken

    def post_failure(self, failure: Failure) -> None:
        """Add the failure of a worker."""
        self._failures.append(failure)

    def failures(self) -> list[Failure]:
        """All failures in order of arrival."""
        return self._failures

    def stop(self) -> None:
        """Request a stop; rank 0 receives it in reply to its next post."""
        self._stop = True


def open_mailbox() -> ActorHandle:
    """The handle of a new mailbox on the driver's node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox: ActorHandle = Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    return mailbox


@dataclass
class Reporter:
    """Rank 0's side of the mailbox: posts progress, and decides when to save a state and when to stop."""

    mailbox: ActorHandle
    total_steps: int
    batch_size: int
    save_seconds: float
    last_post: float = 0.0
    started: float = field(default_factory=time.monotonic)
    last_save: float = field(default_factory=time.monotonic)
    steps: int = 0
    tokens: int = 0
    reply: Any = None
    stopping: bool = False

    def add_step(self, record: StepRecord) -> None:
        """Count a step; post progress at most twice a second, and at the last step."""
        now = time.monotonic()
        self.steps += 1
        self.tokens += record.tokens
        if now - self.last_post < POST_SECONDS and record.step < self.total_steps:
            return
        self.last_post = now
        seconds = now - self.started
        progress = TrainProgress(
            step=record.step,
            total_steps=self.total_steps,
            loss=record.loss,
            learning_rate=record.learning_rate,
            tokens_per_second=self.tokens / seconds,
            examples_per_second=self.steps * self.batch_size / seconds,
            seconds_left=(self.total_steps - record.step) * seconds / self.steps,
        )
        self._poll_reply()
        self.reply = self.mailbox.post.remote(progress)

    def signal(self, step: int) -> Signal:
        """The action after a step. The last step needs no state, since the tables follow it."""
        self._poll_reply()
        if self.stopping:
            return "save and stop"
        if time.monotonic() - self.last_save < self.save_seconds or step == self.total_steps:
            return "continue"
        return "save"

    def mark_saved(self) -> None:
        """Restart the clock of saved states."""
        self.last_save = time.monotonic()

    def _poll_reply(self) -> None:
        """Read the reply to the last post if it has arrived."""
        if self.reply is not None and ray.wait([self.reply], timeout=0)[0]:
            self.stopping = self.stopping or ray.get(self.reply)
            self.reply = None
