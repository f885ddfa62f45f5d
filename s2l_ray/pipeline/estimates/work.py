"""The work of each stage: what its time grows with, counted from sizes alone.

Work is in an own unit for each kind: rows, tokens of forward passes, distances to centroids, questions. The time of a
stage is that of its start and that of its work, and only the latter is scaled.
"""

from collections.abc import Callable
from dataclasses import dataclass

from s2l_ray.config.sections import Config
from s2l_ray.core.model_shape import ModelShape
from s2l_ray.pipeline.costs import ADAPTERS, FORWARD, TRAINING
from s2l_ray.pipeline.estimates.sizes import PoolSize, Sizes, count_questions, target_rows, target_steps

# forward passes that a training step takes as much time as, and one that has no gradients of the weights
STEP_PASSES, ADAPTER_PASSES = TRAINING // FORWARD, ADAPTERS // FORWARD
# time to prepare a row that does not become an example, and one that is filtered out, as a share of that of an example
REJECTED_SHARE, FILTERED_SHARE = 0.3, 0.05


@dataclass(frozen=True)
class Work:
    """amount: in the unit of the kind. rows, tokens: of the input, each once. flops: of the models; None if unknown."""

    amount: float | None = None
    rows: float | None = None
    tokens: float | None = None
    flops: float | None = None


def work_of(kind: str, config: Config, sizes: Sizes) -> Work:
    """The work of the stage that builds `kind`."""
    return WORK[kind](config, sizes)


def _prepare(kind: str) -> Callable[[Config, Sizes], Work]:
    def work(config: Config, sizes: Sizes) -> Work:
        pool = sizes.pools.get(kind, PoolSize())
        if pool.rows is None:
            return Work(None, None, pool.tokens, 0.0)
        examples = pool.rows + (pool.held_out or 0)
        rejected = max(0.0, (pool.read or examples) - pool.filtered - examples)
        amount = examples + REJECTED_SHARE * rejected + FILTERED_SHARE * pool.filtered
        return Work(amount, pool.rows, pool.tokens, 0.0)

    return work


def _embed(config: Config, sizes: Sizes) -> Work:
    pool = sizes.pools["dataset"]
    return Work(pool.rows, pool.rows, pool.tokens)


def _train(config: Config, sizes: Sizes) -> Work:
    """The tokens of all steps, and those of the held-out rows at every checkpoint."""
    pool, proxy = sizes.training_pool(config), config.proxy
    rows = proxy.train_examples or pool.rows
    if proxy.checkpoints_from is not None:
        return Work(sizes.checkpoints, rows, pool.tokens, 0.0)
    held_out = _held_out_tokens(pool)
    if rows is None or pool.row_tokens is None or sizes.checkpoints is None or held_out is None:
        return Work(None, rows, None)
    steps = proxy.epochs * (int(rows) // proxy.batch_size)
    trained = steps * proxy.batch_size * pool.row_tokens
    return _passes(STEP_PASSES * trained + sizes.checkpoints * held_out, rows, trained, sizes.proxy)


def _score(config: Config, sizes: Sizes) -> Work:
    pool = sizes.pools["dataset"]
    if config.score.losses_from is not None:
        return Work(pool.rows, pool.rows, pool.tokens, 0.0)
    if pool.tokens is None or sizes.scored is None:
        return Work(None, pool.rows, pool.tokens)
    return _passes(pool.tokens * sizes.scored, pool.rows, pool.tokens * sizes.scored, sizes.proxy)


def _cluster(config: Config, sizes: Sizes) -> Work:
    """Values that are compared with centroids: over the sample in its iterations, over all rows in theirs."""
    rows, cluster = sizes.pools["dataset"].rows, config.cluster
    if rows is None or (cluster.features == "trajectories" and sizes.scored is None):
        return Work(None, rows, None, 0.0)
    sampled = min(rows, cluster.sample_per_cluster * cluster.k) * cluster.sample_iterations
    values = sizes.scored or 1
    return Work((sampled + rows * cluster.iterations) * cluster.k * values, rows, None, 0.0)


def _select(config: Config, sizes: Sizes) -> Work:
    rows = sizes.pools["dataset"].rows
    return Work(rows, rows, None, 0.0)


def _finetune(config: Config, sizes: Sizes) -> Work:
    pool, target = sizes.target_pool(config), config.target
    rows, held_out = target_rows(config, pool), _held_out_tokens(pool)
    if rows is None or pool.rows is None or pool.row_tokens is None or held_out is None:
        return Work(None, rows, None)
    trained = target_steps(config, pool.rows, rows) * target.batch_size * pool.row_tokens
    passes = STEP_PASSES if target.lora is None else ADAPTER_PASSES
    return _passes(passes * trained + held_out, rows, trained, sizes.target)


def _evaluate(config: Config, sizes: Sizes) -> Work:
    """Questions where there are tasks, which take most of the time, else the tokens of the held-out rows."""
    pool = sizes.target_pool(config)
    if config.evaluate.tasks:
        questions = sizes.questions or count_questions(config)
        return Work(questions, questions, None, None)
    tokens = _held_out_tokens(pool)
    return Work(None, pool.held_out) if tokens is None else _passes(tokens, pool.held_out, tokens, sizes.target)


def _held_out_tokens(pool: PoolSize) -> float | None:
    """Tokens of the held-out rows, which are as long as the others."""
    if not pool.held_out:
        return None if pool.held_out is None else 0.0
    return pool.held_out * pool.row_tokens if pool.row_tokens is not None else None


def _passes(amount: float, rows: float | None, tokens: float, model: ModelShape | None) -> Work:
    """Forward passes over `amount` tokens."""
    return Work(amount, rows, tokens, FORWARD * model.parameters * amount if model is not None else None)


WORK: dict[str, Callable[[Config, Sizes], Work]] = {
    "dataset": _prepare("dataset"),
    "task": _prepare("task"),
    "target_dataset": _prepare("target_dataset"),
    "embeddings": _embed,
    "checkpoints": _train,
    "trajectories": _score,
    "clusters": _cluster,
    "subset": _select,
    "target": _finetune,
    "evaluation": _evaluate,
}
