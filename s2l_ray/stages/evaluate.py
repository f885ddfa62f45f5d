"""evaluate: dataset and target -> evaluation (the target's loss on held-out rows).

A unit is a shard of held-out rows. A unit whose file is complete and was made from the same shard, model and options is
not computed again. At the end one task joins the units into the tables of the artifact.
"""

from s2l_ray.artifacts.execution import EvaluateExecution
from s2l_ray.artifacts.facts import TargetFacts
from s2l_ray.artifacts.schemas import HELD_OUT_FOLDER, HELD_OUT_LOSSES, TOKENS_FOLDER
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit
from s2l_ray.catalog.scored_units import checkpoint_digest
from s2l_ray.config.sections import Config
from s2l_ray.runtime.contracts import Cluster, PoolOptions, ResourceRequest
from s2l_ray.stages.build import Build, Product, cpus_per_actor, pool_size
from s2l_ray.stages.evaluate_summary import summarize
from s2l_ray.stages.evaluate_workers import LossUnit, LossWorker

MEMORY_HINT = "lower resources.evaluate.tokens_per_batch"

EvaluateBuild = Build[EvaluateExecution]


def execution(config: Config, cluster: Cluster) -> EvaluateExecution:
    """Resolve what can change the last bits of a loss; the number of workers cannot."""
    wanted = config.resources.evaluate
    gpus = cluster.gpus_each(wanted.gpus, "resources.evaluate.gpus")
    return EvaluateExecution(wanted.tokens_per_batch, wanted.attention, wanted.threads, gpus)


def resources(build: EvaluateBuild) -> ResourceRequest:
    """The minimum number of workers; more start as resources become free."""
    gpus = build.execution.gpus
    least, _ = pool_size(build.config.resources.evaluate.workers, build.cluster, gpus)
    hint = "lower resources.evaluate.workers" + (" or set resources.evaluate.gpus: 0" if gpus else "")
    return ResourceRequest("evaluate", hint, least, cpus_per_actor(build.cluster), gpus)


def evaluate(build: EvaluateBuild) -> Product:
    losses = _evaluate_losses(build) if build.config.evaluate.loss else []
    request = ResourceRequest("evaluate", cpus=cpus_per_actor(build.cluster))
    hint = "use nodes with more memory"
    summary = build.run_on_one_node("summarizing the evaluation", hint, request, summarize, build.folder, losses)
    return Product(summary.files, summary.counts, summary.facts, HELD_OUT_LOSSES)


def plan_loss_units(build: EvaluateBuild) -> list[LossUnit]:
    """One unit a shard of held-out rows."""
    target, execution = build.inputs["target"], build.execution
    key = {
        "model": checkpoint_digest(target, target.facts(TargetFacts).checkpoint.step),
        "dtype": build.config.evaluate.dtype,
        "tokens_per_batch": str(execution.tokens_per_batch),
        "attention": execution.attention,
    }
    shards = build.inputs["dataset"].shards(HELD_OUT_FOLDER + TOKENS_FOLDER)
    return [LossUnit(shard, {**key, "shard": record.sha256}) for shard, record in enumerate(shards)]


def _evaluate_losses(build: EvaluateBuild) -> list[FileRecord]:
    """The file of every unit, in order."""
    wanted = build.config.resources.evaluate
    least, most = pool_size(wanted.workers, build.cluster, build.execution.gpus)
    return build.run_missing_units(
        plan_loss_units(build),
        lambda unit: find_complete_unit(build.folder, unit.name, unit.key),
        LossWorker,
        PoolOptions("evaluation", MEMORY_HINT, min_actors=least, max_actors=most, gpus=build.execution.gpus),
        "shards of held-out rows",
        folder=build.folder,
        dataset=build.inputs["dataset"].uri,
        target=build.inputs["target"].uri,
        evaluate=build.config.evaluate,
        execution=build.execution,
        cache_bytes=round(wanted.cache_gb * 1e9),
    )
