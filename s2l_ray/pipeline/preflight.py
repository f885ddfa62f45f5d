"""Checks and estimates before a run starts anything.

`estimate` computes rows, tokens, checkpoints and disk from the config and from what exists; None is what is not known
yet. `check_feasible` raises `ConfigError` for what could only fail later. Neither torch nor transformers is imported:
sizes are read from the headers of local files.
"""

import shutil
from dataclasses import dataclass
from importlib.util import find_spec

from s2l_ray import storage
from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.catalog.listing import COMPLETE
from s2l_ray.config.budget import ROWS, budget_amount, budget_unit, check_budget
from s2l_ray.config.identity import checkpoint_origins, local_folder
from s2l_ray.config.sections import Config, TokenizerToTrain
from s2l_ray.core.embedding import DEFAULT_MODEL
from s2l_ray.core.training.schedule import CheckpointGrid, checkpoint_steps, steps_per_epoch
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.checks.evaluation import check_evaluation
from s2l_ray.pipeline.checks.selection import check_selection, check_steps
from s2l_ray.pipeline.checks.tracking import check_trackers
from s2l_ray.pipeline.estimates.models import config_fields, model_shape
from s2l_ray.pipeline.plan import Plan

WEIGHT_BYTES = 4
# two resume states, each the weights and two moments of the optimizer
STATE_WEIGHTS = 2 * 3
# steps of an epoch long enough that no two checkpoints of a grid by shares coincide
LONG_EPOCH = 10_000


@dataclass(frozen=True)
class Estimate:
    """Figures of a job; None where they are not known before its dataset is complete, or not at all.

    rows: of the pool, with status ok. max_rows: what the job file admits. budget: to select, in its unit.
    bytes_needed: on disk, for checkpoints still to be written and two resume states. bytes_free: of the disk below a
    local root.
    """

    rows: int | None
    max_rows: int | None
    tokens: int | None
    budget: int | None
    checkpoints: int | None
    parameters: int | None
    bytes_needed: int | None
    bytes_free: int | None


def estimate(planned: Plan) -> Estimate:
    config, dataset = planned.config, _dataset_facts(planned)
    rows = dataset.ok if dataset is not None else None
    budget = budget_amount(config.select.budget, rows) if rows is not None else None
    most = rows if rows is not None else max_rows(config)
    checkpoints = parameters = needed = None
    if "checkpoints" in planned:
        checkpoints = checkpoint_count(config, _most_rows_to_train_on(planned))
        parameters = parameter_count(config)
        needed = _bytes_needed(planned, checkpoints, parameters)
    tokens = dataset.tokens if dataset is not None else None
    return Estimate(rows, most, tokens, budget, checkpoints, parameters, needed, free_bytes(config.root))


def check_feasible(planned: Plan, figures: Estimate | None = None) -> None:
    """Raise `ConfigError` for what could only fail later."""
    config, figures = planned.config, figures or estimate(planned)
    budget, most, dataset = config.select.budget, figures.max_rows, _dataset_facts(planned)
    if "subset" in planned and dataset is not None:
        check_budget(budget, dataset.sizes)
    elif "subset" in planned and most is not None and isinstance(budget, int) and budget > most:
        raise ConfigError(
            f"select.budget: {budget} rows, but data admits at most {most}; set it to at most {most}",
            page="docs/methods.md#budgets-and-constraints",
        )
    if "embeddings" in planned and planned["embeddings"].to_build:
        check_embedding(config)
    if "subset" in planned and planned["subset"].to_build:
        check_selection(planned)
    if "trajectories" in planned:
        check_steps(planned)
    if "target" in planned and planned["target"].to_build:
        check_target(config, figures)
    if "evaluation" in planned and planned["evaluation"].to_build:
        check_evaluation(planned)
    if planned.missing:
        check_trackers(config)
    if "checkpoints" in planned and planned["checkpoints"].to_build:
        check_vocabulary(config, _dataset_facts(planned))
        rows = _most_rows_to_train_on(planned)
        if rows is not None and config.proxy.checkpoints_from is None:
            check_training(config, rows)
        check_disk(config, figures)


def check_embedding(config: Config) -> None:
    """Refuse embeddings without text, without the library, or of a folder that holds another kind of model."""
    if config.without_data:
        raise ConfigError("embed: rows of score.losses_from have no text; add data.sources and data.tokenizer")
    if find_spec("sentence_transformers") is None:
        raise ConfigError("embed: needs the package sentence-transformers; pip install 's2l_ray[embed]'")
    folder = local_folder(config, config.embed.model, "embed.model")
    if folder is not None and not (folder / "modules.json").is_file():
        raise ConfigError(
            f"embed.model: {folder} has no modules.json; write the folder of a sentence-transformers model, or a hub "
            f"id such as {DEFAULT_MODEL}"
        )


def check_training(config: Config, pool: int) -> None:
    """Refuse a training for which the pool, or the rows of a target task, are too few."""
    proxy = config.proxy
    if proxy.train_examples is not None and proxy.train_examples > pool:
        raise ConfigError(f"proxy.train_examples: {proxy.train_examples} exceeds the {pool} rows to train on; lower it")
    if proxy.batch_size > (proxy.train_examples or pool):
        hint = "raise data.limit" if config.data.limit is not None else "set it to a small part of them"
        raise ConfigError(f"proxy.batch_size: {proxy.batch_size} exceeds the {pool} rows to train on; {hint}")


def check_target(config: Config, figures: Estimate) -> None:
    """Refuse batches of the target that are larger than the pool or a budget in rows, and adapters without peft."""
    target, select = config.target, config.select
    if target.lora is not None and find_spec("peft") is None:
        raise ConfigError("target.lora: needs the package peft; pip install 's2l_ray[lora]'")
    if target.lora is not None and config.resources.train.strategy == "fsdp":
        raise ConfigError("target.lora: adapters are not sharded; set resources.train.strategy: ddp")
    limits = [figures.max_rows]
    if target.rows == "subset" and budget_unit(select.budget) == ROWS and not select.official_parts:
        limits.append(select.budget if isinstance(select.budget, int) else figures.budget)
    rows = min((limit for limit in limits if limit is not None), default=None)
    if rows is not None and target.batch_size > rows:
        raise ConfigError(f"target.batch_size: {target.batch_size} exceeds the {rows} rows to train on; lower it")


def check_disk(config: Config, figures: Estimate) -> None:
    """Refuse checkpoints that do not fit on the disk below a local root."""
    needed, free = figures.bytes_needed, figures.bytes_free
    if needed is None or free is None or needed <= free:
        return
    each = (figures.parameters or 0) * WEIGHT_BYTES
    raise ConfigError(
        f"proxy.checkpoints: {figures.checkpoints} checkpoints of about {each / 1e9:,.2g} GB and the "
        f"resume states take {needed / 1e9:,.1f} GB, but {config.root} has {free / 1e9:,.1f} GB free; ask for "
        "fewer checkpoints, use a smaller proxy.model, or move root to a larger disk"
    )


def check_vocabulary(config: Config, dataset: DatasetFacts | None) -> None:
    """Refuse a tokenizer with ids for which a local model has no embedding."""
    rows, tokens = _embedding_rows(config), vocabulary(config, dataset)
    if rows is not None and tokens is not None and tokens > rows:
        raise ConfigError(
            f"data.tokenizer: has {tokens} tokens, proxy.model {config.proxy.model} an embedding of {rows}; "
            f"use the model's own: tokenizer: {config.proxy.model}"
        )


def checkpoint_count(config: Config, pool: int | None) -> int | None:
    """Number of checkpoints; without a pool only for grids that do not count steps or examples."""
    proxy = config.proxy
    if proxy.checkpoints_from is not None:
        return len(checkpoint_origins(config))
    grid = CheckpointGrid(**proxy.checkpoints.model_dump())
    if pool is None and (grid.steps or grid.examples) and proxy.train_examples is None:
        return None
    per_epoch = LONG_EPOCH
    if pool is not None or proxy.train_examples is not None:
        rows = proxy.train_examples or pool or 0
        if rows < proxy.batch_size:
            return None
        per_epoch = steps_per_epoch(rows, proxy.batch_size)
    return len(checkpoint_steps(grid, per_epoch * proxy.epochs, per_epoch, proxy.batch_size))


def parameter_count(config: Config) -> int | None:
    """Parameters of the proxy model, if they are known offline."""
    shape = model_shape(config, config.proxy.model, "proxy.model")
    return shape.parameters if shape is not None else None


def vocabulary(config: Config, dataset: DatasetFacts | None) -> int | None:
    """Largest id of the tokenizer + 1; None for one from the hub before the dataset is complete."""
    tokenizer = config.data.tokenizer
    if dataset is not None:
        return dataset.vocab_size
    if isinstance(tokenizer, TokenizerToTrain):
        return tokenizer.train.vocab_size
    folder = local_folder(config, tokenizer, "data.tokenizer") if tokenizer else None
    if folder is None or not (folder / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    return max(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().values(), default=-1) + 1 or None


def free_bytes(root: str) -> int | None:
    """Free bytes of the disk below a local root; None for an object store."""
    if not storage.is_local(root):
        return None
    folder = storage.local_path(root).expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _dataset_facts(planned: Plan) -> DatasetFacts | None:
    dataset = planned.artifact("dataset")
    return dataset.facts(DatasetFacts) if dataset is not None else None


def training_facts(planned: Plan) -> DatasetFacts | None:
    """Facts of what the proxy is trained on, the pool or the rows of a target task, if that is complete."""
    artifact = planned.artifact("dataset" if planned.config.proxy.train_on is None else "task")
    return artifact.facts(DatasetFacts) if artifact is not None else None


def _most_rows_to_train_on(planned: Plan) -> int | None:
    facts, task = training_facts(planned), planned.config.proxy.train_on
    if facts is not None:
        return facts.ok
    return task.rows if task is not None else max_rows(planned.config)


def _bytes_needed(planned: Plan, checkpoints: int | None, parameters: int | None) -> int | None:
    step = planned["checkpoints"]
    if step.state == COMPLETE and not step.rebuild:
        return 0
    if checkpoints is None or parameters is None:
        return None
    stored = sum(entry.bytes for entry in storage.list_files(step.uri))
    return max(0, (checkpoints + STATE_WEIGHTS) * parameters * WEIGHT_BYTES - stored)


def max_rows(config: Config) -> int | None:
    """The most rows that the pool can hold, if the job file limits them."""
    limits = [config.data.limit] if isinstance(config.data.limit, int) else []
    by_source = [source.rows for source in config.data.sources]
    if by_source and None not in by_source:
        limits.append(sum(rows for rows in by_source if rows is not None))
    return min(limits, default=None)


def _embedding_rows(config: Config) -> int | None:
    """`vocab_size` of a model in a local folder; None for others."""
    model = config.proxy.model
    folder = local_folder(config, model, "proxy.model") if isinstance(model, str) else None
    return config_fields(folder, "proxy.model").get("vocab_size") if folder is not None else None
