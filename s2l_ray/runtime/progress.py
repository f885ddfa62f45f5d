"""What a running stage says about itself. Stages yield these records, the command line renders them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """A moment of a stage: `done` of `total` units of `unit`; `note` is a line to keep, `warning` one not to miss.

    `rates` are per second over this run of the stage, e.g. {"rows": 1200.0, "tokens": 3.1e5}.
    """

    kind: str
    done: float = 0
    total: float = 0
    unit: str = "units"
    rates: dict[str, float] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    note: str = ""
    warning: str = ""
