"""Estimates of single stages: time, memory, storage and money, each with the source of its figure.

Time follows from a measurement of the same stage, first one under the root of the job, then one of a probe, and else
from FLOPs on the GPU that the job describes. Without any of these, it is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from s2l_ray.artifacts.schemas import KINDS_WITH_TEXT
from s2l_ray.config.sections import Config
from s2l_ray.pipeline.costs import RESOURCE_SECTIONS, price
from s2l_ray.pipeline.estimates.measurements import Measurement
from s2l_ray.pipeline.estimates.memory import ROW_BYTES, gpu_bytes, stored_weights
from s2l_ray.pipeline.estimates.record import Measured
from s2l_ray.pipeline.estimates.sizes import Sizes
from s2l_ray.pipeline.estimates.work import Work, work_of

SHAPES = "shapes"


@dataclass(frozen=True)
class StepEstimate:
    """The estimate of one stage; None is not known.

    workers: that `seconds` holds for, each with `gpus` GPUs or `threads` CPU threads. gpu_bytes, host_bytes: most
    memory of a worker on its GPU and of its process. gpu_fits: in the GPU that the job describes. stored_bytes: of the
    artifact. sources: of rows, seconds, host_bytes and stored_bytes. users: jobs of an experiment that need it.
    """

    kind: str
    fingerprint: str
    rows: float | None = None
    tokens: float | None = None
    flops: float | None = None
    seconds: float | None = None
    workers: int | None = None
    gpus: float | None = None
    threads: int = 1
    gpu_bytes: float | None = None
    gpu_fits: bool | None = None
    host_bytes: float | None = None
    stored_bytes: float | None = None
    money: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    users: int = 1


def estimate_step(
    kind: str, fingerprint: str, config: Config, sizes: Sizes, measured: Measured, work: Work | None = None
) -> StepEstimate:
    """The estimate of the stage that builds `kind`. work: another amount than that of the job."""
    work = work or work_of(kind, config, sizes)
    found = measured.find(kind, config)
    gpus = _gpus(kind, config, found)
    threads = found.threads if found is not None else _threads(kind, config)
    workers = _workers(kind, config, found)
    seconds, source = _seconds(work, config, found, workers, gpus)
    stored, stored_source = _stored(kind, work, sizes, found)
    on_gpu = gpu_bytes(kind, config, sizes) if gpus else None
    gpu = config.estimate.gpu
    origin = next((sizes.pools[name].origin for name in KINDS_WITH_TEXT if name in sizes.pools), "")
    return StepEstimate(
        kind=kind,
        fingerprint=fingerprint,
        rows=work.rows,
        tokens=work.tokens,
        flops=work.flops,
        seconds=seconds,
        workers=workers,
        gpus=gpus,
        threads=threads,
        gpu_bytes=on_gpu,
        gpu_fits=on_gpu <= gpu.memory_gb * 1e9 if on_gpu is not None and gpu is not None else None,
        host_bytes=_host_bytes(kind, work, found),
        stored_bytes=stored,
        money=price(config.prices, seconds, workers, gpus, threads),
        sources={
            "rows": origin if work.rows is not None else "",
            "seconds": source,
            "host_bytes": found.origin if found is not None else "",
            "stored_bytes": stored_source,
        },
    )


def _seconds(
    work: Work, config: Config, found: Measurement | None, workers: int, gpus: float | None
) -> tuple[float | None, str]:
    """Seconds, and their source."""
    if work.amount is not None and found is not None:
        return found.seconds(work.amount, workers), found.origin
    gpu = config.estimate.gpu
    if not work.flops or gpu is None or not gpus:
        return None, ""
    rate = gpu.tflops * 1e12 * gpu.utilization * workers * gpus
    return work.flops / rate, f"FLOPs at {100 * gpu.utilization:.0f} % of {gpu.tflops:g} TFLOP/s"


def _stored(kind: str, work: Work, sizes: Sizes, found: Measurement | None) -> tuple[float | None, str]:
    """Bytes of the artifact, and their source."""
    if (weights := stored_weights(kind, sizes)) is not None:
        return weights, SHAPES
    if found is None or work.rows is None:
        return None, ""
    return found.stored_bytes * work.rows / max(1.0, found.rows), found.origin


def _host_bytes(kind: str, work: Work, found: Measurement | None) -> float | None:
    if found is None or work.rows is None:
        return None
    return found.peak_bytes + max(0.0, ROW_BYTES.get(kind, 0) * (work.rows - found.rows))


def _workers(kind: str, config: Config, found: Measurement | None) -> int:
    """Workers as requested; for `auto` as many as were measured, else one."""
    wanted = getattr(getattr(config.resources, RESOURCE_SECTIONS.get(kind, ""), None), "workers", 1)
    if isinstance(wanted, list):
        wanted = wanted[1]
    return wanted if isinstance(wanted, int) else found.workers if found is not None else 1


def _gpus(kind: str, config: Config, found: Measurement | None) -> float | None:
    """GPUs of a worker as requested; for `auto` as measured, else one where the job describes a GPU, else unknown."""
    wanted = getattr(getattr(config.resources, RESOURCE_SECTIONS.get(kind, ""), None), "gpus", 0.0)
    if wanted != "auto":
        return float(wanted)
    if found is not None:
        return found.gpus
    return 1.0 if config.estimate.gpu is not None else None


def _threads(kind: str, config: Config) -> int:
    return getattr(getattr(config.resources, RESOURCE_SECTIONS.get(kind, ""), None), "threads", None) or 1
