"""Export of a subset, for a trainer to read: one file of rows as they were read, or a folder for one trainer.

Rows are in pool order, written shard by shard, and each file is put whole; every byte read from the artifacts is
checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from s2l_ray import storage
from s2l_ray.artifacts.facts import SubsetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.export.chosen import Choice, Chosen, choose_examples
from s2l_ray.catalog.export.files import ReadRows, write_lines, write_parquet
from s2l_ray.catalog.export.rows import has_chats, original_answers, original_rows, trainer_rows
from s2l_ray.catalog.export.trainers import ROWS, TRAINERS, Card, Form
from s2l_ray.errors import ConfigError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
ALL_SELECTED = Choice()


@dataclass(frozen=True)
class Exported:
    """A written file. json_fields: fields that are JSON text, because Parquet has no type for all their values."""

    path: str
    rows: int
    bytes: int
    json_fields: tuple[str, ...] = ()


def export_subset(subset: Artifact, target: str, *, choice: Choice = ALL_SELECTED, force: bool = False) -> Exported:
    """Write rows as they were read to `target`, a path or URI whose suffix decides the format.

    Raises `ConfigError` for an unknown suffix, another kind of artifact, or an existing file without `force`;
    `DamagedError` where the subset or its dataset is not what was written.
    """
    if not target.endswith(SUFFIXES):
        raise ConfigError(f"--to {target}: unknown suffix; write a name that ends in {', '.join(SUFFIXES)}")
    _refuse(subset, [target], force)
    chosen = choose_examples(subset, choice)
    return _write(partial(original_answers if choice.answers else original_rows, chosen), target)


def export_for(
    subset: Artifact, folder: str, trainer: str, *, choice: Choice = ALL_SELECTED, force: bool = False
) -> tuple[Exported, list[str]]:
    """Write rows for one of TRAINERS, and the files that it needs beside them, to `folder`. Returns their paths too.

    Raises as `export_subset` does, also where one of these files exists.
    """
    if trainer not in TRAINERS:
        raise ConfigError(
            f"--for {trainer}: unknown; the trainers are {', '.join(TRAINERS)}", page="docs/export.md#for-a-trainer"
        )
    folder, names = storage.absolute(folder), TRAINERS[trainer].names
    _refuse(subset, [storage.join(folder, name) for name in (ROWS, *names)], force)
    chosen = choose_examples(subset, choice)
    if not chosen.dataset.manifest.config["data"]["sources"]:
        raise ConfigError(f"--for {trainer}: rows of score.losses_from have no text; write --to FILE without --for")
    form = TRAINERS[trainer].form or ("messages" if has_chats(chosen) else "pairs")
    exported = _write(_reader(chosen, form, choice), storage.join(folder, ROWS))
    texts = TRAINERS[trainer].texts(Card(folder, form, exported.rows, _facts(subset, choice)))
    for name, text in zip(names, texts, strict=True):
        storage.write_bytes(storage.join(folder, name), text.encode())
    return exported, [storage.join(folder, name) for name in names]


def _reader(chosen: Chosen, form: Form, choice: Choice) -> ReadRows:
    if form == "original":
        return partial(original_answers if choice.answers else original_rows, chosen)
    return partial(trainer_rows, chosen, form == "messages")


def _refuse(subset: Artifact, targets: Sequence[str], force: bool) -> None:
    """Raise `ConfigError` for another kind of artifact, and for a target that exists without `force`."""
    if subset.manifest.kind != "subset":
        raise ConfigError(f"{subset.uri}: is a {subset.manifest.kind} artifact, not a subset; `s2l ls ROOT` lists them")
    for target in targets:
        if storage.exists(target) and not force:
            raise ConfigError(f"--to {target}: already exists; give another name, or --force to overwrite it")


def _write(read: ReadRows, target: str) -> Exported:
    with storage.output_file(target) as path:
        if target.endswith(".parquet"):
            rows, json_fields = write_parquet(read, path)
        else:
            rows, json_fields = write_lines(read, path, compressed=target.endswith(".gz")), ()
        return Exported(target, rows, path.stat().st_size, json_fields)


def _facts(subset: Artifact, choice: Choice) -> dict[str, object]:
    """Facts of the selection for a data set card."""
    facts, manifest = subset.facts(SubsetFacts), subset.manifest
    options = [f"union with {one.manifest.fingerprint}" for one in choice.union]
    options += [f"intersection with {one.manifest.fingerprint}" for one in choice.intersection]
    options += ["the rows that were not selected"] if choice.rest else []
    options += [f"random control, seed {choice.control}"] if choice.control is not None else []
    return {
        "rows": ", ".join(options) or "the selected ones",
        "method": facts.method,
        "budget": f"{facts.budget:,} {facts.unit.replace('_', ' ')}",
        "pool": f"{facts.pool:,} rows",
        "selected by source": ", ".join(f"{name} {rows:,}" for name, rows in facts.by_source.items()),
        "seed": manifest.config.get("select", {}).get("seed"),
        "subset": manifest.fingerprint,
        "dataset": manifest.inputs["dataset"],
        "created with": ", ".join(f"{name} {version}" for name, version in manifest.execution.libraries.items()),
    }
