"""What a job will take, and what can be known to be wrong with it, before anything starts.

In: a config and its plan. Out: a `Forecast` (rows, tokens, checkpoints, disk), in which None is what is not known
yet; and `ConfigError` for a budget over the pool, a disk too small for the checkpoints, a tokenizer that does not fit
the model. Neither torch nor transformers is imported: sizes are read from the headers of files, or estimated.
"""

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import OK
from s2l_ray.config.identity import local_folder
from s2l_ray.config.sections import Config, TokenizerToTrain, rows_of
from s2l_ray.core.training.schedule import CheckpointGrid, checkpoint_steps, steps_per_epoch
from s2l_ray.errors import ConfigError

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Plan

WEIGHT_BYTES = 4
STATE_WEIGHTS = 2 * 3
"""Two states to resume from, each the weights and two moments of the optimizer."""
TYPICAL_VOCABULARY = 50_304
LONG = 10_000
"""Steps of an epoch long enough that no two checkpoints of a grid by shares fall together."""
NAMED_SIZE = re.compile(r"[-_](\d+(?:\.\d+)?)([mb])(?=$|[-_.])", re.IGNORECASE)
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
WIDTHS = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class Forecast:
    """Figures of a job; None where they are not known before its dataset stands, or not at all.

    rows: of the pool, with status ok. rows_at_most: what the job file lets in; checkpoints follow from it until rows is
    known. budget: rows to be picked. bytes_needed: on disk, for checkpoints still to be written and two states to
    resume from. bytes_free: of the disk below a local root.
    """

    rows: int | None
    rows_at_most: int | None
    tokens: int | None
    budget: int | None
    checkpoints: int | None
    parameters: int | None
    bytes_needed: int | None
    bytes_free: int | None


def forecast(config: Config, planned: "Plan") -> Forecast:
    """The figures that are known now."""
    dataset = _finished(planned, "dataset")
    rows = pool_of(dataset) if dataset is not None else None
    tokens = dataset.manifest.facts.get("tokens") if dataset is not None else None
    budget = rows_of(config.select.budget, rows) if rows is not None else None
    most = rows if rows is not None else most_rows(config)
    checkpoints = parameters = needed = None
    if any(step.kind == "checkpoints" for step in planned.steps):
        checkpoints = checkpoint_count(config, most)
        parameters = parameter_estimate(config, dataset)
        needed = _bytes_needed(planned, checkpoints, parameters)
    return Forecast(rows, most, tokens, budget, checkpoints, parameters, needed, free_bytes(config.root))


def refuse_impossible(config: Config, planned: "Plan", figures: Forecast) -> None:
    """Raise `ConfigError` for what can only fail later."""
    if any(step.kind == "subset" for step in planned.steps):
        check_budget(config.select.budget, figures.rows, figures.rows_at_most)
    if any(step.kind == "checkpoints" for step in planned.missing):
        check_vocabulary(config, _finished(planned, "dataset"))
        if figures.rows is not None:
            check_training(config, figures.rows)
        check_disk(config, figures)


def check_budget(budget: int | str, pool: int | None, most: int | None = None) -> None:
    """Refuse a budget that is no row, or more rows than the pool holds or, before it stands, `most` can hold."""
    if pool is not None and not 0 < rows_of(budget, pool) <= pool:
        wanted = rows_of(budget, pool)
        remedy = f"set select.budget to at most {pool}" if wanted else "raise select.budget"
        raise ConfigError(f"select.budget: {budget} is {wanted} rows of the {pool} with status ok; {remedy}")
    if pool is None and most is not None and isinstance(budget, int) and budget > most:
        raise ConfigError(f"select.budget: {budget} rows, but data takes at most {most}; set it to at most {most}")


def check_training(config: Config, pool: int) -> None:
    """Refuse a training that the pool is too small for."""
    proxy = config.proxy
    left = pool - proxy.held_out
    if left <= 0:
        raise ConfigError(f"proxy.held_out: {proxy.held_out} leaves no row of {pool} to train on; lower it")
    if proxy.train_examples is not None and proxy.train_examples > left:
        raise ConfigError(f"proxy.train_examples: {proxy.train_examples} exceeds the {left} rows to train on; lower it")
    if proxy.batch_size > (proxy.train_examples or left):
        remedy = "lower it to a small part of them"
        raise ConfigError(f"proxy.batch_size: {proxy.batch_size} exceeds the {left} rows to train on; {remedy}")


def check_disk(config: Config, figures: Forecast) -> None:
    """Refuse checkpoints that the disk below a local root will not hold."""
    needed, free = figures.bytes_needed, figures.bytes_free
    if needed is None or free is None or needed <= free:
        return
    raise ConfigError(
        f"proxy.checkpoints: {figures.checkpoints} checkpoints of about {_gigabytes(figures.parameters or 0)} and the "
        f"states to resume from take {needed / 1e9:,.1f} GB, but {config.root} has {free / 1e9:,.1f} GB free; ask for "
        "fewer checkpoints, take a smaller proxy.model, or move root to a larger disk"
    )


def check_vocabulary(config: Config, dataset: Artifact | None) -> None:
    """Refuse a tokenizer with ids that a local model has no embedding for."""
    model = _model_folder(config)
    rows = _read_json(model / "config.json").get("vocab_size") if model is not None else None
    tokens = vocabulary(config, dataset)
    if rows is not None and tokens is not None and tokens > rows:
        raise ConfigError(
            f"data.tokenizer: has {tokens} tokens, proxy.model {config.proxy.model} an embedding of {rows}; "
            f"write the model's own: tokenizer: {config.proxy.model}"
        )


def pool_of(dataset: Artifact) -> int:
    """Rows of a finished dataset with status ok."""
    return int(dataset.manifest.facts["statuses"].get(OK, 0))


def checkpoint_count(config: Config, pool: int | None) -> int | None:
    """How many checkpoints a training leaves; without a pool only where the grid does not count steps or examples."""
    proxy = config.proxy
    grid = CheckpointGrid(**proxy.checkpoints.model_dump())
    if pool is None and (grid.steps or grid.examples) and proxy.train_examples is None:
        return None
    per_epoch = LONG
    if pool is not None or proxy.train_examples is not None:
        rows = proxy.train_examples or (pool or 0) - proxy.held_out
        if rows < proxy.batch_size:
            return None
        per_epoch = steps_per_epoch(rows, proxy.batch_size)
    return len(checkpoint_steps(grid, per_epoch * proxy.epochs, per_epoch, proxy.batch_size))


def parameter_estimate(config: Config, dataset: Artifact | None = None) -> int | None:
    """Parameters of the proxy: counted in a local folder, estimated from a config, read off a hub id's name."""
    model = config.proxy.model
    if isinstance(model, dict):
        layers, width = _first(model, LAYERS), _first(model, WIDTHS)
        tokens = vocabulary(config, dataset) or TYPICAL_VOCABULARY
        tables = 1 if model.get("tie_word_embeddings") else 2
        return None if layers is None or width is None else 12 * layers * width**2 + tables * tokens * width
    folder = _model_folder(config)
    if folder is not None:
        return sum(map(_weights_in, folder.glob("*.safetensors"))) or None
    named = NAMED_SIZE.search(model)
    return round(float(named[1]) * (1e9 if named[2] in "bB" else 1e6)) if named else None


def vocabulary(config: Config, dataset: Artifact | None) -> int | None:
    """Ids that the tokenizer may give; None for one of the hub before the dataset stands."""
    if dataset is not None and "vocab_size" in dataset.manifest.facts:
        return int(dataset.manifest.facts["vocab_size"])
    tokenizer = config.data.tokenizer
    if isinstance(tokenizer, TokenizerToTrain):
        return tokenizer.train.vocab_size
    folder = local_folder(config, tokenizer, "data.tokenizer")
    stored = _read_json(folder / "tokenizer.json") if folder is not None else {}
    known = stored.get("model", {}).get("vocab", {})
    ids = [*(known.values() if isinstance(known, dict) else range(len(known)))]
    return max([*ids, *(one["id"] for one in stored.get("added_tokens", []))], default=-1) + 1 or None


def free_bytes(root: str) -> int | None:
    """What the disk below a local root has free; None for an object store."""
    if not storage.is_local(root):
        return None
    place = storage.local_path(root).expanduser().absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _finished(planned: "Plan", kind: str) -> Artifact | None:
    step = next((one for one in planned.steps if one.kind == kind), None)
    return open_artifact(step.uri) if step is not None and step.state == "complete" else None


def _bytes_needed(planned: "Plan", checkpoints: int | None, parameters: int | None) -> int | None:
    step = planned["checkpoints"]
    if step.state == "complete":
        return 0
    if checkpoints is None or parameters is None:
        return None
    there = sum(entry.bytes for entry in storage.list_files(step.uri))
    return max(0, (checkpoints + STATE_WEIGHTS) * parameters * WEIGHT_BYTES - there)


def most_rows(config: Config) -> int | None:
    """The most rows the pool can hold, as far as the job file says so."""
    limits = [config.data.limit] if isinstance(config.data.limit, int) else []
    by_source = [source.rows for source in config.data.sources]
    if None not in by_source:
        limits.append(sum(rows for rows in by_source if rows is not None))
    return min(limits, default=None)


def _model_folder(config: Config) -> Path | None:
    model = config.proxy.model
    return None if isinstance(model, dict) else local_folder(config, model, "proxy.model")


def _weights_in(path: Path) -> int:
    """Parameters in a safetensors file, from its header: 8 bytes of length, then JSON."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((int(fields[name]) for name in names if name in fields), None)


def _gigabytes(parameters: int) -> str:
    return f"{parameters * WEIGHT_BYTES / 1e9:,.2g} GB"
