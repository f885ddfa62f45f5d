"""One function on one node: where a matrix has to be in one place (the k-means fit, the selector).

In: a function and its arguments. Out: its result, and how far it is until then, as far as it tells. A function whose
node is lost, or that fails in a way which may pass, is called again, so it has to be one that may be called twice: what
it writes has one name and is put whole. One that tells nothing new for too long is ended.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from s2l_ray.errors import S2LError
from s2l_ray.runtime.exit_watchdog import leave_for_certain
from s2l_ray.runtime.failures import ends_run, first_line, from_record, is_out_of_memory, summary_of, to_record
from s2l_ray.runtime.placement import Need
from s2l_ray.runtime.unit_tracker import this_process

T = TypeVar("T")
LOST_AGAIN = 2
"""Calls after the first, where a node or a process was lost."""
POLL_SECONDS = 1.0
ANYWHERE = Need("", "")


@dataclass(frozen=True)
class Said:
    """How far a function is: so many of a total of units, e.g. "shards read"."""

    done: int
    total: int
    unit: str


@dataclass(frozen=True)
class Task:
    """What is called: its name in messages, the key that makes it need less memory, what it takes of a node.

    `retries`: calls after one that failed. `stall_minutes`: how long it may tell nothing new once it runs;
    `wait_minutes`: how long it may be without a node.
    """

    what: str
    lower: str
    place: Need = ANYWHERE
    retries: int = 0
    stall_minutes: float = 30.0
    wait_minutes: float = 15.0


@dataclass(frozen=True)
class Heard:
    """What a process told last."""

    process: str
    said: Said | None


NOWHERE = Heard("", None)
_said: Said | None = None


def tell(done: int, total: int, unit: str) -> None:
    """Say how far the function is that runs in this process."""
    global _said
    _said = Said(done, total, unit)


def telling(items: Sequence[T], unit: str) -> Iterator[T]:
    """The items one by one, each of them told."""
    for number, item in enumerate(items):
        tell(number, len(items), unit)
        yield item
    tell(len(items), len(items), unit)


def _last_said() -> Said | None:
    """Looked up here, since Ray sends the class below with its own copy of what it names."""
    return _said


@ray.remote
class Place:
    """An actor that calls one function, and answers meanwhile how far that is."""

    def __init__(self) -> None:
        leave_for_certain()

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], task: Task) -> Any:
        try:
            return {"value": function(*arguments)}
        except Exception as error:  # travels to the driver, which raises it there
            final = ends_run(error) or is_out_of_memory(error)
            return {"failure": to_record(error, task.what, task.lower), "final": final}

    @ray.method(max_task_retries=0)  # of a process that was lost no question is asked again
    def said(self) -> tuple[str, Said | None]:
        return str(this_process()), _last_said()


def run_remote(function: Callable[..., T], *arguments: Any, task: Task) -> Generator[Said | str, None, T]:
    """The function's result, computed in an actor that takes `task.place` of a node.

    Yields what it tells, and a line for a failure after which it is called again. Raises the last as an `S2LError`.
    """
    for tries in range(task.retries + 1):
        answer = yield from _answer(function, arguments, task)
        if "failure" not in answer:
            return answer["value"]  # type: ignore[no-any-return]
        failure = from_record(answer["failure"])
        if answer["final"] or tries == task.retries:
            raise failure
        yield f"{first_line(str(failure))}; trying again"
    raise AssertionError("retries are not negative")


def _answer(function: Callable[..., T], arguments: tuple[Any, ...], task: Task) -> Generator[Said, None, Any]:
    place = task.place
    share = {"num_cpus": place.cpus, "num_gpus": place.gpus, "memory": place.memory or None}
    actor = Place.options(  # type: ignore[attr-defined]
        **share, max_restarts=LOST_AGAIN, max_task_retries=LOST_AGAIN, max_concurrency=2
    ).remote()
    try:
        answer = actor.call.remote(function, arguments, task)
        yield from _watch(actor, answer, task)
        return ray.get(answer)
    except RayError as error:
        remedy = f"lower {task.lower} if memory ran out, then run again"
        raise S2LError(f"{task.what}: {summary_of(error)}; {remedy}") from error
    finally:
        ray.kill(actor)


def _watch(actor: Any, answer: Any, task: Task) -> Iterator[Said]:
    """What is told until there is an answer. Raises `S2LError` where nothing new is, for too long."""
    heard, since = NOWHERE, time.monotonic()
    asked = actor.said.remote()
    while not ray.wait([answer], timeout=POLL_SECONDS)[0]:
        news = _heard(asked)
        if news is not None:
            asked = actor.said.remote()
        if news is not None and news != heard:
            heard, since = news, time.monotonic()
            if heard.said is not None:
                yield heard.said
        elif time.monotonic() - since > _patience(heard, task) * 60:
            raise S2LError(_stalled(heard, task))


def _patience(heard: Heard, task: Task) -> float:
    return max(task.stall_minutes, task.wait_minutes) if heard == NOWHERE else task.stall_minutes


def _stalled(heard: Heard, task: Task) -> str:
    minutes = f"{task.what}: nothing new for {_patience(heard, task):g} minutes"
    if heard == NOWHERE:
        room = f"{task.place.cpus:g} CPUs, {task.place.gpus:g} GPUs and {task.place.memory / 1e9:.3g} GB of memory"
        return f"{minutes}, it has no process: there was no room for {room}; see to the cluster's nodes, then run again"
    said = heard.said
    at = f"it was at {said.done} of {said.total} {said.unit}" if said else "it had told nothing"
    return (
        f"{minutes}, {at} ({heard.process}); look there for what it waits for, and run again; raise "
        "resources.stall_minutes if a step of it takes that long"
    )


def _heard(asked: Any) -> Heard | None:
    """What was told since the last question, if it was answered; nobody answers for a process that was lost."""
    if not ray.wait([asked], timeout=0)[0]:
        return None
    try:
        return Heard(*ray.get(asked))
    except RayError:
        return NOWHERE
