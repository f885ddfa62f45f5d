"""Units of work over a pool of Ray Data actors.

In: units (JSON-able records with a `name`), a worker class and its arguments, the size of the pool. Out: one result a
unit, as they finish. A worker is made once an actor and called once a unit; it writes its own file under a name that
follows from the unit, so that a unit which Ray runs again after losing a node does no harm. A row of the pipeline
carries several units, since a row costs tens of milliseconds.

A unit that fails, or whose process dies in it, is tried again in a fresh process, and after `Pool.retries` set aside,
or done without the rows at fault: the others go on, and the failures are raised at the end. A failure that says that
the job is wrong is raised at once.
"""

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from s2l_ray.errors import S2LError
from s2l_ray.runtime.failures import UnitsSetAside, first_line, from_record, summary_of
from s2l_ray.runtime.unit_actor import Actor, Pool, Result, Unit, WorkerClass
from s2l_ray.runtime.unit_tracker import STARTING, Work, open_desk

UNITS_IN_ROW = 32
"""At most: Ray hears of a row when all its units are done, and by that a run that stands still is told."""
ENOUGH = 3
"""Units set aside before it counts that they are more than those that were done."""
SHOWN = 20
ANSWER_SECONDS = 10.0


def run_units(units: Sequence[Unit], worker: WorkerClass, pool: Pool, bundle: int = 1) -> Iterator[Result]:
    """Results as they come, in no promised order; units are begun in theirs.

    One that is set aside has the result {"set_aside": its name and failure}. Raises `UnitsSetAside` once the others are
    done, or when most fail, and any failure of the job as an `S2LError` at once; what was finished stays in storage.
    """
    if not units:
        return
    bundle = min(bundle, UNITS_IN_ROW)
    rows = [{"units": json.dumps(units[start : start + bundle])} for start in range(0, len(units), bundle)]
    least, most = min(pool.least, len(rows)), min(pool.most, len(rows))
    desk = open_desk(pool.retries, pool.finished)
    finished = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Actor,  # type: ignore[arg-type]  # Ray's stubs know callables, its documentation classes
        fn_constructor_args=(worker, pool, desk),
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
    )
    finished.context.execution_no_progress_timeout_s = pool.stall_minutes * 60
    try:
        yield from _results(finished, pool, desk)
    finally:
        ray.kill(desk)


def _results(finished: ray.data.Dataset, pool: Pool, desk: Any) -> Iterator[Result]:
    aside: list[Result] = []
    done = pool.finished
    try:
        for result in _unpacked(finished):
            if "failure" in result:
                raise from_record(result["failure"])
            if "set_aside" in result:
                aside.append(result["set_aside"])
            else:
                done += 1
            if max(done, ENOUGH - 1) < len(aside):
                raise _set_aside(pool, aside, done)
            yield result
    except ExecutionTimeoutError as error:
        works = ray.get(desk.doing.remote(), timeout=ANSWER_SECONDS)
        ray.get(desk.end_all.remote(), timeout=ANSWER_SECONDS)
        raise S2LError(_stalled(pool, works)) from error
    except RayError as error:
        raise S2LError(f"{pool.name}: {summary_of(error)}; lower {pool.lower}, then run again") from error
    if aside and not pool.goes_on:
        raise _set_aside(pool, aside, done)


def _unpacked(finished: ray.data.Dataset) -> Iterator[Result]:
    for row in finished.iter_rows():
        yield from json.loads(row["results"])


def _set_aside(pool: Pool, aside: list[Result], done: int) -> UnitsSetAside:
    lines = [f"{pool.name}: {len(aside)} units failed in every try, {done} are done and kept:"]
    lines += [f"  {describe(one)}" for one in aside[:SHOWN]]
    if len(aside) > SHOWN:
        lines.append(f"  and {len(aside) - SHOWN} more")
    details = "\n".join(one["details"] for one in aside[:SHOWN])
    return UnitsSetAside("\n".join([*lines, f"mend the cause, and {pool.remedy}"]), details)


def describe(aside: Result) -> str:
    """A unit that was set aside, in one line, with the rows at fault where they were found."""
    rows = aside.get("rows") or [first_line(aside["message"])]
    where = f"last on {aside['where']}, " if "where" in aside else ""
    return f"{aside['unit']}: {'; '.join(rows)} ({where}{aside['tries']} tries)"


def _stalled(pool: Pool, works: list[Work]) -> str:
    lines = [f"{pool.name}: no result for {pool.stall_minutes:g} minutes. What the workers were doing:"]
    for work in works:
        minutes = (time.time() - work.since) / 60
        unit = STARTING if work.unit.startswith(STARTING) else work.unit
        lines.append(f"  {work.process}: {unit} for {minutes:.1f} minutes")
    if not works:
        lines.append(f"  none had begun: the cluster has no room for one of {pool.cpus:g} CPUs and {pool.gpus:g} GPUs")
    remedy = "look there for what they wait for, and run again; raise resources.stall_minutes if units take that long"
    return "\n".join([*lines, remedy])
