"""Loss trajectories: the choice of checkpoints whose losses form the columns of a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# shares of the training are written in decimals
ROUNDING = 1e-9


@dataclass(frozen=True)
class Window:
    """Trained checkpoints by their share of the training, thinned.

    start, end: shares of the examples seen up to the last recorded checkpoint, both included. Of these checkpoints
    every n-th is kept (the n-th, the 2n-th, ...), and of those the last m; `last` None keeps all.
    """

    start: float = 0.0
    end: float = 1.0
    every: int = 1
    last: int | None = None

    def steps(self, steps: Sequence[int]) -> list[int]:
        """The chosen ones of `steps`, ascending. Every optimizer step sees one batch, so shares of steps are used."""
        end = max(steps, default=0)
        within = [
            step
            for step in sorted(steps)
            if step > 0 and self.start * end - ROUNDING * end <= step <= self.end * end + ROUNDING * end
        ]
        kept = within[self.every - 1 :: self.every]
        return kept if self.last is None else kept[-self.last :]


def choose_columns(checkpoints: str | Sequence[int] | Window, steps: Sequence[int]) -> list[int]:
    """Columns of the requested checkpoints, in the order of `steps`, the optimizer step of each column.

    `checkpoints` is `all`, `trained` (without step 0), a list of steps or a window. Raises ValueError for steps that
    were not recorded, and where no checkpoint is left.
    """
    if checkpoints == "all":
        return list(range(len(steps)))
    if checkpoints == "trained":
        wanted = {step for step in steps if step > 0}
    elif isinstance(checkpoints, str):
        raise ValueError(f"checkpoints: {checkpoints!r} is unknown; use all, trained, a list of steps or a window")
    else:
        wanted = set(checkpoints.steps(steps) if isinstance(checkpoints, Window) else checkpoints)
    missing = sorted(wanted - set(steps))
    if missing or not wanted:
        raise ValueError(f"checkpoints: no step {missing or checkpoints}; recorded are {list(steps)}")
    return [column for column, step in enumerate(steps) if step in wanted]
