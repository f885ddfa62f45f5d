"""Units of work over a pool of Ray Data actors.

A worker is constructed once in each actor and called once for each unit. It writes its own file under a name that
follows from the unit, so that Ray may run a unit again after it lost a node. A failed unit is retried in a fresh
process; one that fails in every attempt is a `Failed` result, and the others continue. A failure of the job itself
ends the run at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray import cloudpickle
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from s2l_ray.errors import S2LError
from s2l_ray.runtime.contracts import ActorHandle, Done, Failed, PoolOptions, Unit
from s2l_ray.runtime.failures import (
    UnitsFailed,
    exception_from_failure,
    first_line,
    stall_message,
    summarize_ray_error,
)
from s2l_ray.runtime.unit_actor import Outcome, RunFailed, UnitActor
from s2l_ray.runtime.unit_tracker import start_unit_tracker

U = TypeVar("U", bound=Unit)
R = TypeVar("R")
# Ray sees progress when a whole row is done, and stalls are detected by that; so a row must stay short.
MAX_UNITS_PER_TASK = 32
# Minimum failures before a failing majority aborts the run.
MIN_FAILURES_TO_ABORT = 3
MAX_LISTED = 20
TRACKER_SECONDS = 10.0


def run_units(
    units: Sequence[U],
    worker: Callable[..., Callable[[U], R]],
    options: PoolOptions,
    arguments: Mapping[str, object] = {},
) -> Iterator[Done[R] | Failed]:
    """Yield one result for each unit as it completes, in no fixed order; units start in the given order.

    worker: called with `arguments` in each actor, returns the function of a unit. Both are pickled.

    Raises `UnitsFailed` after all other units if more than `options.allow_failures` failed in every attempt, or early
    when a majority fails; an `S2LError` at once for a failure of the job itself (damaged input, disk full, out of
    memory before any success) or without progress for `options.retry.stall_minutes`.
    """
    if not units:
        return
    size = min(options.units_per_task, MAX_UNITS_PER_TASK)
    rows = [{"units": cloudpickle.dumps(list(units[start : start + size]))} for start in range(0, len(units), size)]
    tracker = start_unit_tracker(options.retry.retries, options.done_before)
    tasks = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        UnitActor,  # type: ignore[arg-type]  # Ray documents classes; its type stubs accept only functions
        fn_constructor_args=(worker, dict(arguments), options, tracker),
        compute=ray.data.ActorPoolStrategy(
            min_size=min(options.min_actors, len(rows)), max_size=min(options.max_actors, len(rows))
        ),
        num_cpus=options.cpus,
        num_gpus=options.gpus or None,
    )
    tasks.context.execution_no_progress_timeout_s = options.retry.stall_minutes * 60
    try:
        yield from _results(tasks, options, tracker)
    finally:
        ray.kill(tracker)  # type: ignore[arg-type]


def _results(tasks: ray.data.Dataset, options: PoolOptions, tracker: ActorHandle) -> Iterator[Done[Any] | Failed]:
    failed: list[Failed] = []
    done = options.done_before
    try:
        for outcome in _outcomes(tasks):
            if isinstance(outcome, RunFailed):
                raise exception_from_failure(outcome.failure)
            if isinstance(outcome, Failed):
                failed.append(outcome)
            else:
                done += 1
            if len(failed) > max(done, options.allow_failures, MIN_FAILURES_TO_ABORT - 1):
                raise _units_failed(options, failed, done)
            yield outcome
    except ExecutionTimeoutError as error:
        active = ray.get(tracker.active.remote(), timeout=TRACKER_SECONDS)
        ray.get(tracker.end_all.remote(), timeout=TRACKER_SECONDS)
        not_started = f"no node has {options.cpus:g} CPUs and {options.gpus:g} GPUs free"
        message = stall_message(options.name, options.retry.stall_minutes, list(map(str, active)), not_started)
        raise S2LError(message) from error
    except RayError as error:
        summary = summarize_ray_error(error)
        raise S2LError(f"{options.name}: {summary}; if memory ran out, {options.memory_hint}; run again") from error
    if len(failed) > options.allow_failures:
        raise _units_failed(options, failed, done)


def _outcomes(tasks: ray.data.Dataset) -> Iterator[Outcome]:
    for row in tasks.iter_rows():
        yield from cloudpickle.loads(row["outcomes"])


def _units_failed(options: PoolOptions, failed: Sequence[Failed], done: int) -> UnitsFailed:
    lines = [f"{options.name}: {len(failed)} units failed in every attempt ({done} are complete and stored):"]
    lines += [f"  {describe(one)}" for one in failed[:MAX_LISTED]]
    if len(failed) > MAX_LISTED:
        lines.append(f"  and {len(failed) - MAX_LISTED} more")
    lines.append(f"Fix the cause, then {options.failure_hint}")
    return UnitsFailed("\n".join(lines), "\n".join(one.failure.details for one in failed[:MAX_LISTED]))


def describe(failed: Failed) -> str:
    """A failed unit in one line: its name, the last failure, the process, the number of attempts."""
    failure = failed.failure
    process = f"last on {failure.process}, " if failure.process else ""
    attempts = f"{failure.attempts} attempt{'s' * (failure.attempts != 1)}"
    return f"{failed.unit}: {first_line(failure.message)} ({process}{attempts})"
