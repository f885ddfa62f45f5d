"""Loss trajectories: the choice of checkpoints whose losses form the columns of a trajectory."""

from __future__ import annotations

from collections.abc import Sequence


def choose_columns(checkpoints: str | Sequence[int], steps: Sequence[int]) -> list[int]:
    """Columns of the requested checkpoints, in the order of `steps`, the optimizer step of each column.

    `checkpoints` is `all`, `trained` (without step 0) or a list of steps. Raises ValueError for steps that were not
    recorded.
    """
    if checkpoints == "all":
        return list(range(len(steps)))
    if checkpoints == "trained":
        wanted = {step for step in steps if step > 0}
    elif isinstance(checkpoints, str):
        raise ValueError(f"checkpoints: {checkpoints!r} is unknown; use all, trained or a list of steps")
    else:
        wanted = set(checkpoints)
    missing = sorted(wanted - set(steps))
    if missing or not wanted:
        raise ValueError(f"checkpoints: no step {missing or checkpoints}; recorded are {list(steps)}")
    return [column for column, step in enumerate(steps) if step in wanted]
