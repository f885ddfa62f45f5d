"""Sizes that the work of a stage follows from: of pools, models, grids of checkpoints, questions; None if unknown."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from s2l_ray import storage
from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.config.budget import ROWS, budget_amount, budget_unit
from s2l_ray.config.evaluate import EvaluationTask
from s2l_ray.config.identity import questions_spec, task_config
from s2l_ray.config.sections import Config, TargetSteps
from s2l_ray.core.model_shape import ModelShape
from s2l_ray.core.training.schedule import steps_per_epoch
from s2l_ray.pipeline.estimates.models import model_shape
from s2l_ray.pipeline.preflight import checkpoint_count, max_rows
from s2l_ray.sources.ranges import RangeReader, list_ranges
from s2l_ray.sources.spec import SourceSpec

DATASET, PROBE, JOB_FILE = "dataset", "probe", "job file"


@dataclass(frozen=True)
class PoolSize:
    """Size of a pool; None is not known.

    read: rows of the sources, of which `filtered` are left out by `only`. rows: examples with status ok. tokens: of
    these. held_out: rows. origin: of the figures, the dataset itself, a probe, or the job file.
    """

    read: float | None = None
    rows: float | None = None
    tokens: float | None = None
    held_out: float | None = None
    filtered: float = 0
    origin: str = JOB_FILE

    @property
    def row_tokens(self) -> float | None:
        """Mean tokens of a row."""
        return self.tokens / self.rows if self.tokens is not None and self.rows else None


@dataclass(frozen=True)
class Sizes:
    """Sizes of a job. pools: by kind, of dataset, task and target_dataset, where the job needs them.

    checkpoints: of the proxy, that are saved; scored: of these, that are scored. questions: of an evaluation that ran.
    """

    pools: Mapping[str, PoolSize]
    proxy: ModelShape | None
    target: ModelShape | None
    checkpoints: int | None
    scored: int | None
    questions: int | None = None

    def training_pool(self, config: Config) -> PoolSize:
        """The rows that the proxy is trained on."""
        return self.pools.get("dataset" if config.proxy.train_on is None else "task", PoolSize())

    def target_pool(self, config: Config) -> PoolSize:
        """The pool in the tokens of the target, or where it is not prepared in these, of the proxy."""
        kind = "dataset" if config.target.tokenizer is None else "target_dataset"
        return self.pools.get(kind, self.pools.get("dataset", PoolSize()))


def pool_of_artifact(dataset: Artifact) -> PoolSize:
    """The size of a complete dataset. Tokens are those of all rows, of which few have another status than ok."""
    facts = dataset.facts(DatasetFacts)
    held_out, counts = sum(facts.held_out.values()), dataset.manifest.counts
    return PoolSize(counts.read, facts.ok, facts.tokens, held_out, counts.rejected.get("filtered", 0), DATASET)


def pool_of_job(config: Config, kind: str) -> PoolSize:
    """The size that the job file states, or that it admits at most."""
    given, wanted = config.estimate, config
    if kind == "task":
        wanted = task_config(config)
    limit = max_rows(wanted)
    rows = given.rows if kind != "task" else None
    rows = limit if rows is None else min(rows, limit or rows)
    tokens = rows * given.tokens_per_row if rows is not None and given.tokens_per_row is not None else None
    read = given.rows if kind != "task" else rows
    return PoolSize(read, rows, tokens, 0 if config.data.held_out is None else None, origin=JOB_FILE)


def sizes(config: Config, pools: Mapping[str, PoolSize], questions: int | None = None) -> Sizes:
    """The sizes of a job with these pools."""
    pool = pools.get("dataset" if config.proxy.train_on is None else "task", PoolSize())
    rows = round(pool.rows) if pool.rows is not None else None
    imported = config.score.losses_from is not None
    saved = None if imported else checkpoint_count(config, rows)
    scored = saved if config.score.checkpoints == "all" else len(config.score.checkpoints)
    proxy = model_shape(config, config.proxy.model, "proxy.model")
    target = model_shape(config, config.target.model, "target.model")
    return Sizes(pools, proxy, target, saved, scored, questions)


def target_rows(config: Config, pool: PoolSize) -> float | None:
    """Rows that the target is trained on; None for a budget in tokens of a pool of unknown size."""
    if config.target.rows != "subset" or pool.rows is None:
        return 0 if config.target.rows == "none" else pool.rows
    budget = config.select.budget
    amount = budget_amount(budget, round(pool.rows))
    if budget_unit(budget) == ROWS:
        return amount
    return amount / pool.row_tokens if pool.row_tokens else None


def target_steps(config: Config, pool_rows: float, rows: float) -> int:
    """Optimizer steps of the target; 0 where there is no full batch, which a run refuses."""
    target = config.target
    if target.rows == "none" or min(pool_rows, rows) < target.batch_size:
        return 0
    if isinstance(target.compute, TargetSteps):
        return target.compute.steps
    counted = pool_rows if target.compute == "same_steps" else rows
    return target.epochs * steps_per_epoch(round(counted), target.batch_size)


def count_questions(config: Config) -> int | None:
    """Questions of all tasks: of local files, or stated in the job file."""
    counts = [_questions_of(config, task) for task in config.evaluate.tasks]
    if None in counts:
        return config.estimate.questions
    return config.evaluate.samples * sum(count for count in counts if count is not None)


def _questions_of(config: Config, task: EvaluationTask) -> int | None:
    spec = questions_spec(config, task)
    if spec.path is None:
        return config.evaluate.limit
    root = storage.absolute(config.data.root)
    found = _rows_of_file(spec.path, root)
    return found if config.evaluate.limit is None else min(found, config.evaluate.limit)


@cache
def _rows_of_file(path: str, root: str) -> int:
    return sum(1 for one in list_ranges([SourceSpec(path=path)], root) for _ in RangeReader(one))
