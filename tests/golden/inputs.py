"""Inputs of the golden jobs: the sections of each job, and examples with made-up loss trajectories.

Nothing here depends on floating-point rounding: trajectories are groups far apart, so that k-means finds exactly the
groups. Ids of the made-up examples are readable, so that a changed list can be read.
"""

from dataclasses import dataclass
from typing import Any

DEMO_ROWS, DEMO_SEED = 600, 3
STEPS = (0, 10, 20, 30)
SHARD_SIZE = 50

# Rows by source and group. One group of each source is smaller than the default of min_cluster_size.
SIZES = {
    "algebra": {"easy": 60, "late": 25, "hard": 33, "outlier": 2},
    "geometry": {"easy": 9, "late": 30, "hard": 20, "outlier": 1},
    "logic": {"easy": 12, "late": 5, "hard": 4, "outlier": 2},
}
CENTERS = {
    "easy": (3.0, 1.0, 0.5, 0.25),
    "late": (3.0, 3.0, 2.5, 0.5),
    "hard": (5.0, 5.0, 4.5, 4.5),
    "outlier": (9.0, 9.0, 9.0, 9.0),
}


@dataclass(frozen=True)
class MadeExample:
    """An example with the losses at `STEPS`."""

    example_id: str
    source: str
    status: str
    losses: tuple[float, ...]


def made_examples() -> list[MadeExample]:
    """Examples of all sources and groups in a fixed mixed order; every 19th cannot be selected."""
    examples = []
    for source, groups in SIZES.items():
        for group, size in groups.items():
            for number in range(size):
                jitter = [(number * factor % 97 - 48) / 2048 for factor in (7, 31, 43, 59)]
                losses = tuple(center + shift for center, shift in zip(CENTERS[group], jitter, strict=True))
                examples.append(MadeExample(f"{source}-{group}-{number:02d}", source, "ok", losses))
    mixed = [examples[position * 89 % len(examples)] for position in range(len(examples))]
    return [
        one if position % 19 else MadeExample(one.example_id, one.source, "no_target_tokens", one.losses)
        for position, one in enumerate(mixed)
    ]


DEMO_DATA: dict[str, Any] = {
    "sources": [{"path": "rows", "source": {"field": "source"}}],
    "tokenizer": {"train": {"vocab_size": 400}},
    "max_length": 96,
    "shard_size": 100,
}
SAMPLED_DATA: dict[str, Any] = {
    **DEMO_DATA,
    "sources": [
        {"path": "rows/everyday.jsonl", "source": {"field": "source"}, "rows": 150},
        {"path": "rows/shares.parquet"},
    ],
    "limit": "80%",
    "seed": 4,
}
DEMO_JOBS: dict[str, dict[str, Any]] = {
    "demo_random": {"data": DEMO_DATA, "select": {"method": "random", "budget": 120, "seed": 5}},
    "demo_source_balanced": {"data": DEMO_DATA, "select": {"method": "source_balanced", "budget": "25%", "seed": 5}},
    "sampled_random": {"data": SAMPLED_DATA, "select": {"method": "random", "budget": "50%"}},
}
S2L_JOBS: dict[str, dict[str, Any]] = {
    "s2l_by_source": {"cluster": {"k": 4}, "select": {"budget": 75}},
    "s2l_whole_pool": {"cluster": {"k": 4, "group_by": "none"}, "select": {"budget": "40%", "seed": 1}},
    "s2l_without_tiny_clusters": {"cluster": {"k": 4}, "select": {"budget": 75, "min_cluster_size": 1}},
    "s2l_large_clusters_first": {"cluster": {"k": 4}, "select": {"budget": 75, "min_cluster_size": 15}},
    "made_random": {"select": {"method": "random", "budget": 60, "seed": 2}},
    "made_source_balanced": {"select": {"method": "source_balanced", "budget": 60, "seed": 2}},
}
