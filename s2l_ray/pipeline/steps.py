"""The pipeline: a table of steps, in the order in which they run. Read this first.

    sources -prepare-> dataset -train-> checkpoints -score-> trajectories -cluster-> clusters -select-> subset
                          +----embed-> embeddings -----(cluster.features)------^
       +----prepare-> task -----(proxy.train_on)---^                   dataset, subset -finetune-> target
       +----prepare-> target_dataset -------------------------(target.tokenizer)---^
                                                                      dataset, target -evaluate-> evaluation

Each step builds one kind of artifact from earlier ones. The artifact's name is the fingerprint of its kind, version,
identity and inputs, so a second run finds it, and a changed key of the job rebuilds only what depends on that key.
IMPORTS are other steps for the same kinds, with what was computed elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from s2l_ray.artifacts.execution import Settings
from s2l_ray.artifacts.schemas import KINDS
from s2l_ray.config import identity
from s2l_ray.config.budget import ROWS, budget_unit
from s2l_ray.config.identity import Identity
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from s2l_ray.runtime.contracts import Cluster, ResourceRequest
from s2l_ray.stages import cluster, embed, imported, score, select, train
from s2l_ray.stages.build import Build, Product
from s2l_ray.stages.evaluate import evaluate
from s2l_ray.stages.prepare import prepare

Inputs = Callable[[Config], tuple[str, ...]]


@dataclass(frozen=True)
class Step:
    """One kind of artifact.

    inputs: the kinds it is made from. identity: the part of the config that decides it. stage: builds it. execution:
    resolves how, once, when it is begun. resources: without which the stage cannot start. version: raised by hand when
    the meaning of the output changes. leftovers: folders that only the building needs.
    """

    kind: str
    inputs: Inputs
    identity: Callable[[Config], Identity]
    stage: Callable[[Build[Any]], Product]
    execution: Callable[[Config, Cluster], Settings]
    resources: Callable[[Build[Any]], ResourceRequest]
    version: int = 1
    leftovers: tuple[str, ...] = ()


def always(*kinds: str) -> Inputs:
    """The same inputs for every config."""
    return lambda config: kinds


def subset_inputs(config: Config) -> tuple[str, ...]:
    """The kinds that hold what the method reads. Row numbers have the lengths that are imported with the losses."""
    kinds = config.select.needs.inputs(config.cluster.features)
    reads_lengths = config.select.needs.reads_lengths or budget_unit(config.select.budget) != ROWS
    return tuple(dict.fromkeys((*kinds, "trajectories"))) if config.without_data and reads_lengths else kinds


def target_rows(config: Config) -> str:
    """The kind that holds the rows in the tokens of the target."""
    return "dataset" if config.target.tokenizer is None else "target_dataset"


STEPS = (
    Step(
        "dataset",
        always(),
        identity.dataset_identity,
        prepare.prepare,
        prepare.execution,
        prepare.resources,
        version=5,
        leftovers=("work",),
    ),
    Step("embeddings", always("dataset"), identity.embeddings_identity, embed.embed, embed.execution, embed.resources),
    Step(
        "task",
        always(),
        identity.task_identity,
        prepare.prepare_task,
        prepare.execution,
        prepare.resources,
        version=4,
        leftovers=("work",),
    ),
    Step(
        "checkpoints",
        lambda config: ("dataset",) if config.proxy.train_on is None else ("task",),
        identity.checkpoints_identity,
        train.train,
        train.execution,
        train.resources,
        version=2,
        leftovers=("resume",),
    ),
    Step(
        "trajectories",
        always("dataset", "checkpoints"),
        identity.trajectories_identity,
        score.score,
        score.execution,
        score.resources,
        version=2,
    ),
    Step(
        "clusters",
        lambda config: (config.cluster.features,),
        identity.clusters_identity,
        cluster.cluster,
        cluster.execution,
        cluster.resources,
        version=2,
    ),
    Step(
        "subset", subset_inputs, identity.subset_identity, select.select, select.execution, select.resources, version=3
    ),
    Step(
        "target_dataset",
        always(),
        identity.target_dataset_identity,
        prepare.prepare_target_dataset,
        prepare.execution,
        prepare.resources,
        version=5,
        leftovers=("work",),
    ),
    Step(
        "target",
        lambda config: (target_rows(config), "subset") if config.target.rows == "subset" else (target_rows(config),),
        identity.target_identity,
        train.finetune,
        train.execution,
        train.resources,
        leftovers=("resume",),
    ),
    Step(
        "evaluation",
        lambda config: (target_rows(config), "target"),
        identity.evaluation_identity,
        evaluate.evaluate,
        evaluate.execution,
        evaluate.resources,
        version=2,
        leftovers=("work",),
    ),
)
assert tuple(step.kind for step in STEPS) == KINDS

# What a job imports instead: (whether it does, step).
IMPORTS: tuple[tuple[Callable[[Config], bool], Step], ...] = (
    (
        lambda config: config.without_data,
        Step(
            "dataset",
            always(),
            identity.row_numbers_identity,
            imported.row_numbers,
            imported.execution,
            imported.resources,
            version=2,
        ),
    ),
    (
        lambda config: config.proxy.checkpoints_from is not None,
        Step(
            "checkpoints",
            always(),
            identity.imported_checkpoints_identity,
            imported.checkpoints,
            imported.execution,
            imported.checkpoint_resources,
            leftovers=("work",),
        ),
    ),
    (
        lambda config: config.score.losses_from is not None,
        Step(
            "trajectories",
            always("dataset"),
            identity.losses_identity,
            imported.losses,
            imported.execution,
            imported.resources,
        ),
    ),
)


def step_of(kind: str, config: Config) -> Step:
    """The step that builds a kind for this job: an import, or that of STEPS."""
    steps = (step for is_imported, step in IMPORTS if step.kind == kind and is_imported(config))
    return next(steps, STEPS[KINDS.index(kind)])


def steps_to(kind: str, config: Config) -> list[Step]:
    """The steps that a job needs to build `kind`, in order. Raises `ConfigError` for an unknown kind."""
    if kind not in KINDS:
        raise ConfigError(f"unknown kind {kind}; the kinds are {', '.join(KINDS)}")
    needed = {kind}
    steps = [step_of(one, config) for one in KINDS]
    for step in reversed(steps):
        if step.kind in needed:
            needed.update(step.inputs(config))
    return [step for step in steps if step.kind in needed]
