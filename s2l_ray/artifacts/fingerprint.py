"""Fingerprints of artifacts, differences between two identities, and sealed JSON records.

A fingerprint names the folder of an artifact. A sealed record contains the sha256 of its own canonical form, so that
damage is detected when it is read.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

from s2l_ray.errors import DamagedError

SEAL = "sha256_of_the_rest"

Record = TypeVar("Record")


def canonical_json(value: object) -> str:
    """JSON text that is equal for equal values: sorted keys, no white space. Raises `ValueError` for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(kind: str, version: int, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """First 12 hexadecimal digits of the sha256 of the canonical JSON of {kind, version, identity, inputs}."""
    value = {"kind": kind, "version": version, "identity": dict(identity), "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Flatten nested mappings and lists to dotted keys: {"cluster.k": 100, "data.sources.0.rows": 5}."""
    items: list[tuple[str, object]]
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and value:
        items = [(str(position), item) for position, item in enumerate(value)]
    else:
        return {prefix: value}
    return {key: leaf for name, item in items for key, leaf in flatten(item, f"{prefix}.{name}".lstrip(".")).items()}


def describe_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List the differences between two identities, one line per key: `cluster.k: 100 -> 200`."""
    old_flat, new_flat = flatten(old), flatten(new)
    absent = object()
    changed = [key for key in sorted({*old_flat, *new_flat}) if old_flat.get(key, absent) != new_flat.get(key, absent)]
    return [f"{key}: {_abbreviated(old_flat, key)} -> {_abbreviated(new_flat, key)}" for key in changed]


def _abbreviated(flat: Mapping[str, object], key: str) -> str:
    text = json.dumps(flat[key], ensure_ascii=False) if key in flat else "absent"
    return text if len(text) <= 40 else f"{text[:37]}..."


def seal(record: Mapping[str, Any]) -> bytes:
    """Encode a record as indented JSON, with the sha256 of its canonical form as the last key."""
    rest = {key: value for key, value in record.items() if key != SEAL}
    digest = hashlib.sha256(canonical_json(rest).encode()).hexdigest()
    return (json.dumps({**rest, SEAL: digest}, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def unseal(data: bytes, uri: str) -> dict[str, Any]:
    """Decode a sealed record. Raises `DamagedError`, naming `uri`, if a byte of it has changed."""
    try:
        record: dict[str, Any] = json.loads(data)
        if seal(record) == data:  # compares every byte, white space included
            return {key: value for key, value in record.items() if key != SEAL}
    except (ValueError, AttributeError):
        pass
    raise DamagedError(f"{uri}: damaged, its content differs from what was written")


def from_json(record: type[Record], values: object) -> Record:
    """A dataclass from its plain values. Raises `pydantic.ValidationError` where fields do not match."""
    adapter: TypeAdapter[Record] = _adapter(record)  # type: ignore[arg-type]  # mypy: type[T] is not Hashable
    return adapter.validate_python(values)


_adapter = cache(TypeAdapter)
