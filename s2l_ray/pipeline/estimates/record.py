"""The record of probes below a root, `{root}/probe.json`: written by `s2l probe`, read by plans."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from pydantic import ValidationError

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import from_json, seal, unseal
from s2l_ray.config.sections import Config
from s2l_ray.pipeline.estimates.measurements import Measurement, rate_key, stored_measurements
from s2l_ray.pipeline.estimates.sizes import PoolSize

RECORD = "probe.json"
VERSION = 1


@dataclass(frozen=True)
class ProbeRecord:
    """Measurements of all probes below a root, the newest of each stage.

    measured: when the newest probe ended. device: where. ray_seconds: to start Ray. pools: by fingerprint of the
    dataset. version: of this schema.
    """

    version: int = VERSION
    measured: str = ""
    device: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    ray_seconds: float = 0.0
    pools: dict[str, PoolSize] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()

    def find(self, kind: str, key: str) -> Measurement | None:
        """The measurement of a stage."""
        return next((one for one in self.measurements if (one.kind, one.key) == (kind, key)), None)


@dataclass(frozen=True)
class Measured:
    """The measurements below a root: of its artifacts, which are read once a kind, and of its probes."""

    root: str
    probe: ProbeRecord
    by_kind: dict[str, list[Measurement]] = field(default_factory=dict)

    def find(self, kind: str, config: Config) -> Measurement | None:
        """A measurement of the same stage: of the artifact with most work, else of a probe."""
        if kind not in self.by_kind:
            self.by_kind[kind] = list(stored_measurements(self.root, kind))
        key = rate_key(kind, config)
        same = (one for one in self.by_kind[kind] if one.key == key)
        return max(same, key=lambda one: one.amount, default=None) or self.probe.find(kind, key)


def measured_below(root: str) -> Measured:
    """The measurements below a root, read where they are needed."""
    return Measured(root, read_record(root))


def read_record(root: str) -> ProbeRecord:
    """The record of a root; an empty one if there is none, or one of another version."""
    return _read(storage.join(root, RECORD))[0]


def add_to_record(root: str, found: ProbeRecord) -> None:
    """Add a probe to the record; what it measured again is replaced."""
    uri = storage.join(root, RECORD)
    while True:
        old, version = _read(uri)
        known = {(one.kind, one.key): one for one in (*old.measurements, *found.measurements)}
        values = {**asdict(found), "pools": {**_pools_as_json(old.pools), **_pools_as_json(found.pools)}}
        values["measurements"] = [asdict(one) for one in known.values()]
        if storage.write_if(uri, seal(values), version) is not None:
            return


def _pools_as_json(pools: Mapping[str, PoolSize]) -> dict[str, object]:
    return {name: asdict(pool) for name, pool in pools.items()}


def _read(uri: str) -> tuple[ProbeRecord, str | None]:
    try:
        data, version = storage.read_version(uri)
    except FileNotFoundError:
        return ProbeRecord(), None
    try:
        values = unseal(data, uri)
        return (from_json(ProbeRecord, values) if values.get("version") == VERSION else ProbeRecord()), version
    except ValidationError:
        return ProbeRecord(), version
