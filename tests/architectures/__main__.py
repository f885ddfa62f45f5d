"""Write docs/models.md anew: `python -m tests.architectures`. Takes some minutes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from transformers.utils import logging as transformers_logging

from tests.architectures.outcome import Outcome, outcome_of
from tests.architectures.tiny_configs import NOT_TINY, architectures

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = """# Models

Written by `python -m tests.architectures` with transformers {transformers} and torch {torch}, on a CPU, in float32.

Training and scoring pack rows without padding and compute logits at target positions only, using the model's own
layers. Before a run relies on this, it is checked on rows of all shards, the longest one included: the logits at a
position must not depend on later tokens, a packed row must not depend on the rows beside it, and its loss and gradient
must be those of the row alone. Scoring is checked at the first and at the last checkpoint. The manifest records which
was used, the reason and the measured difference. `attention: padded` under `resources.train` or `resources.score`
requests padding; the default is `auto`.

Each architecture was built with tiny sizes, trained for 25 steps and scored. The columns show how its rows were batched
in training and in scoring:

- **packed**: rows in one sequence without padding; the fastest.
- **padded**: the model's own forward pass over padded batches.
- **single**: one row at a time, because padding changes the model's losses.
- **refused**: it cannot be a proxy; the reason is what `s2l run` prints.

Error is the largest difference of a row's mean loss from the model's own forward pass over that row alone, in nats. The
choice is that of these weights and rows. Each run checks its own: other sizes, attention windows or versions of a
library can have another result.

{counts}. Not built: {missing}.

| architecture | training | scoring | error | reason |
|---|---|---|---|---|
"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The page of these outcomes."""
    counts = ", ".join(
        f"{count} {scoring}" for scoring, count in Counter(one.scoring for one in outcomes).most_common()
    )
    head = HEAD.format(
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        counts=f"{len(outcomes)} architectures: {counts}",
        missing=", ".join(NOT_TINY.split()),
    )
    return head + "".join(_row(one) for one in outcomes)


def _row(one: Outcome) -> str:
    error = "-" if one.scoring == "refused" else f"{one.error:.0e}"
    reason = " ".join(one.reason.split()).replace("|", "\\|")
    return f"| {one.architecture} | {one.training} | {one.scoring} | {error} | {reason} |\n"


def main() -> None:
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    outcomes = []
    for architecture in architectures():
        outcomes.append(outcome_of(architecture))
        print(outcomes[-1], flush=True)
    PAGE.write_text(page(outcomes))


if __name__ == "__main__":
    main()
