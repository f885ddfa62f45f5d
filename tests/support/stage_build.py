"""Builds of single stages in this process, with their progress records and a minimal job."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.runtime.contracts import Cluster, Progress
from tests.support.local_build import LocalBuild

THIS_MACHINE = Cluster(local=True, nodes=1, cpus=4, gpus=0, cores=2)


@dataclass
class Reports:
    """The progress records of a build."""

    records: list[Progress] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        self.records.append(progress)

    @property
    def warnings(self) -> list[str]:
        """The warnings among the records."""
        return [record.warning for record in self.records if record.warning]


def local_build(
    kind: str, folder: Path, config: Config, inputs: Sequence[Artifact], execution: Any, reports: Reports | None = None
) -> LocalBuild[Any]:
    """A build of `kind` in `folder`."""
    by_kind = {artifact.manifest.kind: artifact for artifact in inputs}
    return LocalBuild(kind, str(folder), config, by_kind, execution, THIS_MACHINE, reports or Reports())


def stage_config(folder: Path, **sections: dict[str, Any]) -> Config:
    """A job in `folder`; `sections` update minimal ones."""
    values: dict[str, Any] = {
        "root": str(folder),
        "run": "stage",
        "data": {"root": str(folder), "sources": [{"path": "rows.jsonl"}], "tokenizer": "gpt2"},
        "proxy": {"model": {"architecture": "gpt2"}},
        "select": {"budget": 1},
    }
    return make_config({**values, **{name: {**values.get(name, {}), **own} for name, own in sections.items()}}, "test")
