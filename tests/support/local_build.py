"""Artifacts built in this process, without Ray: the stages of the pipeline over a loop instead of actors."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from s2l_ray.artifacts.building import building
from s2l_ray.artifacts.execution import Execution
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.catalog.listing import COMPLETE
from s2l_ray.config.sections import Config
from s2l_ray.pipeline.plan import PlannedStep, plan
from s2l_ray.pipeline.run import make_manifest
from s2l_ray.pipeline.steps import step_of
from s2l_ray.runtime.contracts import Cluster, Done, Failed, PoolOptions, ResourceRequest, Unit, ignore_progress
from s2l_ray.stages.build import Build, E

U = TypeVar("U", bound=Unit)
R = TypeVar("R")
T = TypeVar("T")

ONE_CORE = Cluster(local=True, nodes=1, cpus=1.0, gpus=0.0, cores=1)


class LocalBuild(Build[E]):
    """A build whose units and functions run one after the other in this process."""

    def run_units(
        self, units: Sequence[U], worker: Callable[..., Callable[[U], R]], options: PoolOptions, **arguments: object
    ) -> Iterator[Done[R] | Failed]:
        """Results of the units, in order."""
        run = worker(**arguments) if units else None
        return (Done(unit.name, run(unit)) for unit in units if run is not None)

    def run_on_one_node(
        self, name: str, memory_hint: str, request: ResourceRequest, function: Callable[..., T], *arguments: object
    ) -> T:
        """Result of the function."""
        return function(*arguments)


def build_locally(config: Config, to: str = "subset") -> Artifact:
    """Build what is missing up to `to`, like `pipeline.run.run`, and return that artifact."""
    for kind in [step.kind for step in plan(config, to).steps]:
        planned = plan(config, to)[kind]
        if planned.state != COMPLETE:
            _build(config, planned)
    return open_artifact(plan(config, to)[to].uri)


def _build(config: Config, planned: PlannedStep) -> None:
    step, root = step_of(planned.kind, config), plan(config, planned.kind)
    inputs = {kind: open_artifact(root[kind].uri) for kind in planned.inputs}
    with building(planned.uri, planned.kind, config.run) as artifact_building:
        execution = artifact_building.begin(Execution(step.execution(config, ONE_CORE), {}))
        settings, report = execution.settings, ignore_progress
        build = LocalBuild(planned.kind, planned.uri, config, inputs, settings, ONE_CORE, report, step.version)
        product = step.stage(build)
        manifest = make_manifest(step, planned, config, execution, product, {"seconds": 0.0})
        artifact_building.commit(manifest, step.leftovers)
