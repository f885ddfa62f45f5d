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

from s2l_ray.runtime.contracts import ActorHandle, Done, Failed, PoolOptions, Progress, Report, Unit, ignore_progress
from s2l_ray.runtime.failures import UnitsFailed, engine_error, exception_from_failure
from s2l_ray.runtime.monitor import report_failures, stalled, start_monitor
from s2l_ray.runtime.unit_actor import UnitActor

U = TypeVar("U", bound=Unit)
R = TypeVar("R")
# Ray sees progress when a whole row is done, and stalls are detected by that; so a row must stay short.
MAX_UNITS_PER_TASK = 32
# Each row is a block in the object store: 2 ms and 4 KB of the driver.
MAX_TASKS = 10_000
# Minimum failures before a failing majority aborts the run.
MIN_FAILURES_TO_ABORT = 3
MAX_LISTED = 20


def run_units(
    units: Sequence[U],
    worker: Callable[..., Callable[[U], R]],
    options: PoolOptions,
    arguments: Mapping[str, object] = {},
    report: Report = ignore_progress,
) -> Iterator[Done[R] | Failed]:
    """Yield one result for each unit as it completes, in no fixed order; units start in the given order.

    worker: called with `arguments` in each actor, returns the function of a unit. Both are pickled. report: called with
    the number of attempts that failed, as results arrive, and at the end with the usage of the actors.

    Raises `UnitsFailed` after all other units if more than `options.allow_failures` failed in every attempt, or early
    when a majority fails; an `S2LError` at once for a failure of the job itself (damaged input, disk full, out of
    memory before any success) or without progress for `options.retry.stall_minutes`.
    """
    if not units:
        return
    size = units_per_task(len(units), options.units_per_task)
    rows = [{"units": cloudpickle.dumps(list(units[start : start + size]))} for start in range(0, len(units), size)]
    task = options.task()
    monitor = start_monitor(task, options.done_before)
    tasks = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        UnitActor,  # type: ignore[arg-type]  # Ray documents classes; its type stubs accept only functions
        fn_constructor_args=(worker, dict(arguments), task, monitor),
        compute=ray.data.ActorPoolStrategy(
            min_size=min(options.min_actors, len(rows)), max_size=min(options.max_actors, len(rows))
        ),
        num_cpus=options.cpus,
        num_gpus=options.gpus or None,
    )
    tasks.context.execution_no_progress_timeout_s = options.retry.stall_minutes * 60
    try:
        yield from _results(tasks, options, monitor, report)
        report(Progress(options.kind, usage=ray.get(monitor.status.remote()).usage))
    finally:
        ray.kill(monitor)  # type: ignore[arg-type]


def units_per_task(units: int, wanted: int) -> int:
    """Units in a row: as wanted, or more where the rows would exceed MAX_TASKS."""
    return min(max(wanted, -(-units // MAX_TASKS)), MAX_UNITS_PER_TASK)


def _results(
    tasks: ray.data.Dataset, options: PoolOptions, monitor: ActorHandle, report: Report
) -> Iterator[Done[Any] | Failed]:
    failed: list[Failed] = []
    done, attempts_failed = options.done_before, 0
    try:
        for row in tasks.iter_rows():
            attempts_failed = report_failures(ray.get(monitor.status.remote()), options.kind, attempts_failed, report)
            for result in cloudpickle.loads(row["results"]):  # pickled by `UnitActor`, never stored
                if isinstance(result, Done):
                    done += 1
                elif result.failure.final:
                    raise exception_from_failure(result.failure)
                else:
                    failed.append(result)
                if len(failed) > max(done, options.allow_failures, MIN_FAILURES_TO_ABORT - 1):
                    raise _units_failed(options, failed, done)
                yield result
    except ExecutionTimeoutError as error:
        raise stalled(monitor, options.task(), options.retry.stall_minutes) from error
    except RayError as error:
        raise engine_error(error, options.task()) from error
    if len(failed) > options.allow_failures:
        raise _units_failed(options, failed, done)


def _units_failed(options: PoolOptions, failed: Sequence[Failed], done: int) -> UnitsFailed:
    lines = [f"{options.name}: {len(failed)} units failed in every attempt ({done} are complete and stored):"]
    lines += [f"  {one}" for one in failed[:MAX_LISTED]]
    if len(failed) > MAX_LISTED:
        lines.append(f"  and {len(failed) - MAX_LISTED} more")
    lines.append(f"Fix the cause, then {options.failure_hint}")
    return UnitsFailed("\n".join(lines), "\n".join(one.failure.details for one in failed[:MAX_LISTED]))
