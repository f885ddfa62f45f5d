"""A probe: every stage that a job needs, run over few rows below the root of the job, and its measurements recorded."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import psutil

from s2l_ray import storage
from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.provenance import libraries
from s2l_ray.artifacts.schemas import KINDS
from s2l_ray.config.sections import Config, TokenizerToTrain
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.pipeline.estimates.measurements import Measurement, measurement_of, rate_key
from s2l_ray.pipeline.estimates.models import model_shape
from s2l_ray.pipeline.estimates.record import ProbeRecord, add_to_record
from s2l_ray.pipeline.estimates.sizes import PROBE, PoolSize
from s2l_ray.pipeline.plan import Plan, plan
from s2l_ray.pipeline.probe.jobs import PREPARED_ROWS, ROWS, ProbeLimits, measured_job, prepare_job, too_large
from s2l_ray.pipeline.probe.sample import PoolSample, sample_pool
from s2l_ray.pipeline.run import run_plan
from s2l_ray.runtime.contracts import Cluster, Progress, Report

FOLDER = "probe"
SAMPLE_SECONDS = 40.0


@dataclass
class Probe:
    """The result of a probe. skipped: stages that were not measured, with the reasons. samples: by `data` section."""

    record: ProbeRecord
    skipped: dict[str, str] = field(default_factory=dict)
    samples: dict[str, PoolSample] = field(default_factory=dict)

    def sample(self, job: Config) -> PoolSample:
        """The sampled rows of a job, which are read once for all jobs of the same rows."""
        data = job.data.model_dump_json()
        if data not in self.samples:
            self.samples[data] = sample_pool(job, PREPARED_ROWS, SAMPLE_SECONDS)
        return self.samples[data]


class _OutOfTime(S2LError):
    """The probe has taken its time."""


def probe_plans(plans: Sequence[Plan], report: Report, seconds: float = 120.0) -> Probe:
    """Measure the missing stages of the jobs, which share a root, and add the measurements to the record of the root.

    seconds: after the start of Ray; stages that are not measured by then are skipped. Raises `ConfigError` for jobs
    without rows, or whose losses were computed elsewhere.
    """
    for one in plans:
        _refuse_imports(one.config)
    root = storage.absolute(plans[0].config.root)
    storage.delete_folder(storage.join(root, FOLDER))  # what a killed probe left
    folder = storage.join(root, FOLDER, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    found = Probe(ProbeRecord(device=f"{psutil.cpu_count()} CPUs", libraries=libraries()))
    try:
        with _connected(found) as cluster:
            limits = ProbeLimits(psutil.virtual_memory().available, cluster.gpus > 0)
            timed = partial(_timed, report, time.monotonic() + seconds)
            for one in plans:
                _measure(one, storage.join(folder, "artifacts"), found, limits, timed)
    finally:
        storage.delete_folder(storage.join(root, FOLDER))
    measured = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    found.record = replace(found.record, measured=measured)
    add_to_record(root, found.record)
    return found


@contextmanager
def _connected(found: Probe) -> Iterator[Cluster]:
    """Ray, and the time that it takes to start."""
    from s2l_ray.runtime.session import connect

    began = time.monotonic()
    with connect() as cluster:
        device = f"{cluster.nodes} nodes, {cluster.cores} cores here, {cluster.gpus:g} GPUs"
        found.record = replace(found.record, ray_seconds=round(time.monotonic() - began, 3), device=device)
        yield cluster


def _timed(report: Report, deadline: float, progress: Progress) -> None:
    report(progress)
    if time.monotonic() > deadline:
        raise _OutOfTime("the time of the probe is over; give it more with --minutes")


def _refuse_imports(config: Config) -> None:
    if config.without_data or config.score.losses_from is not None:
        raise ConfigError("score.losses_from: losses that were computed elsewhere are not probed; there is no proxy")


def _measure(planned: Plan, root: str, found: Probe, limits: ProbeLimits, report: Report) -> None:
    """Measure the stages of one job that no earlier one of the probe has."""
    job = planned.config
    wanted = [step.kind for step in planned.missing if not found.record.find(step.kind, rate_key(step.kind, job))]
    if not wanted:
        return
    sample = found.sample(job)
    prepared = prepare_job(job, root, _write_rows(sample, storage.join(root, "rows"), PREPARED_ROWS))
    dataset = _build(prepared, "dataset", wanted, job, found, report)
    if dataset is None:
        found.skipped = {**dict.fromkeys(wanted, "the dataset was not measured"), **found.skipped}
        return
    facts = dataset.facts(DatasetFacts)
    row_tokens = facts.tokens / max(1, facts.ok)
    _add_pool(planned, "dataset", sample.size, facts, found)
    trains = isinstance(job.data.tokenizer, TokenizerToTrain)
    tokenizer = storage.join(dataset.uri, "tokenizer") if trains else str(job.data.tokenizer)
    few = prepare_job(job, root, _write_rows(sample, storage.join(root, "few-rows"), ROWS))
    config = measured_job(job, few, tokenizer, row_tokens)
    for kind in (kind for kind in KINDS if kind in wanted and kind != "dataset"):
        if reason := _reason_to_skip(kind, job, row_tokens, limits, found):
            found.skipped.setdefault(kind, reason)
            continue
        built = _build(config, kind, [kind], job, found, report)
        if kind == "target_dataset" and built is not None:
            _add_pool(planned, kind, sample.size, built.facts(DatasetFacts), found)


def _build(
    config: Config, kind: str, wanted: Sequence[str], job: Config, found: Probe, report: Report
) -> Artifact | None:
    """Build one kind and what it needs, and measure it if it is wanted; a failure is kept as a reason."""
    try:
        artifact = run_plan(plan(config, kind), report).artifact(kind)
    except S2LError as error:
        found.skipped.setdefault(kind, str(error).partition("\n")[0])
        return None
    assert artifact is not None
    measured = measurement_of(artifact, job, PROBE) if kind in wanted else None
    if measured is not None:
        record: tuple[Measurement, ...] = (*found.record.measurements, measured)
        found.record = replace(found.record, measurements=record)
    return artifact


def _reason_to_skip(kind: str, job: Config, row_tokens: float, limits: ProbeLimits, found: Probe) -> str:
    """The reason not to measure a stage, a model that is too large or an input that was skipped; empty if none."""
    proxy = too_large(model_shape(job, job.proxy.model, "proxy.model"), row_tokens, limits)
    target = too_large(model_shape(job, job.target.model, "target.model"), row_tokens, limits)
    if target and kind in ("target", "evaluation"):
        return target
    needs_proxy = kind == "trajectories" or (kind == "checkpoints" and job.proxy.checkpoints_from is None)
    if proxy and (needs_proxy or (kind == "clusters" and job.cluster.features == "trajectories")):
        return proxy
    inputs = [step.kind for step in plan(job, kind).steps]
    return next((f"{one} was not measured" for one in inputs if one in found.skipped), "")


def _write_rows(sample: PoolSample, folder: str, rows: int) -> tuple[str, ...]:
    """Files of the first sampled rows of each source, in proportion; an empty name for a source without any."""
    total, files = max(1, sum(map(len, sample.rows))), []
    for number, own in enumerate(sample.rows):
        lines = own[: -(-rows * len(own) // total)]
        file = storage.join(folder, f"{number:03d}.jsonl") if lines else ""
        if lines:
            storage.write_bytes(file, "".join(f"{line}\n" for line in lines).encode())
        files.append(file)
    return tuple(files)


def _add_pool(planned: Plan, kind: str, size: PoolSize, sampled: DatasetFacts, found: Probe) -> None:
    """Record the size of the pool, of whose rows as many are ok as of the sampled ones, and as long."""
    fingerprint, examples = planned.fingerprints.get(kind, ""), max(1, sum(sampled.statuses.values()))
    if fingerprint and size.rows is not None:
        own = replace(size, rows=size.rows * sampled.ok / examples, tokens=size.rows * sampled.tokens / examples)
        found.record = replace(found.record, pools={**found.record.pools, fingerprint: own})
