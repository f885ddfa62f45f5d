"""Experiment files: one job, several arms (the job with overrides) and seeds."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from s2l_ray.config.load import load_values, make_config, set_key, validated
from s2l_ray.config.sections import Config
from s2l_ray.config.types import NonNegativeInt, Section

# keys that a seed of the experiment sets, where an arm does not set them itself
SEEDED = ("select.seed", "cluster.seed", "target.seed")

ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class ExperimentFile(Section):
    """The keys of an experiment file.

    job: path relative to this file. vary: further keys that a seed sets. to: the kind that every arm is built up to.
    reference: the arm that others are compared with (default: that of random rows, else the first).
    """

    job: str
    arms: Annotated[dict[ArmName, dict[str, Any]], Field(min_length=1)]
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    vary: tuple[str, ...] = ()
    to: Literal["subset", "target", "evaluation"] = "subset"
    reference: str | None = None

    @field_validator("seeds")
    @classmethod
    def _check_distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed occurs twice; write each once")
        return seeds

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        if self.reference is not None and self.reference not in self.arms:
            raise ValueError(f"reference: no arm {self.reference}; the arms are {', '.join(self.arms)}")
        return self


@dataclass(frozen=True)
class ArmJob:
    """The job of one arm and seed; its run is named `{run}.{arm}.{seed}`."""

    arm: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        return f"{self.arm}.{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """The jobs of an experiment, arms in the order of the file and seeds inside each.

    varied: keys that a seed sets. reference: the arm that the file names to compare the others with.
    """

    run: str
    root: str
    to: str
    varied: tuple[str, ...]
    jobs: tuple[ArmJob, ...]
    reference: str | None = None

    @property
    def arms(self) -> dict[str, list[ArmJob]]:
        """The jobs of each arm, one a seed."""
        return {name: [job for job in self.jobs if job.arm == name] for name in dict.fromkeys(j.arm for j in self.jobs)}


def is_experiment(path: str | Path) -> bool:
    """Whether a YAML file is an experiment, which has the key `job`."""
    return str(path).endswith((".yaml", ".yml")) and "job" in load_values(path)


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file. Overrides of its own keys apply to it, all others to the job.

    Raises `ConfigError`, naming the arm and the key.
    """
    keys = ExperimentFile.keys()
    own = [one for one in overrides if one.partition("=")[0].partition(".")[0] in keys]
    file = validated(ExperimentFile, load_values(path, own), str(path))
    values = load_values(Path(path).parent / file.job, [one for one in overrides if one not in own])
    varied = (*SEEDED, *file.vary)
    jobs = [
        ArmJob(arm, seed, _arm_config(values, f"{path}: arm {arm}", f"{arm}.{seed}", {**seeded, **changes}))
        for arm, changes in file.arms.items()
        for seed in file.seeds
        for seeded in [dict.fromkeys(varied, seed)]
    ]
    return Experiment(str(values.get("run")), jobs[0].config.root, file.to, varied, tuple(jobs), file.reference)


def _arm_config(values: dict[str, Any], origin: str, name: str, changes: dict[str, Any]) -> Config:
    """The job with the changes of an arm, under the arm's run name."""
    own = copy.deepcopy(values)
    for key, value in changes.items():
        set_key(own, key, copy.deepcopy(value), origin)
    return make_config({**own, "run": f"{values.get('run')}.{name}"}, origin)
