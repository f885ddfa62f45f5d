"""What an artefact is, as twelve hex digits, and how two of them differ.

In: plain JSON values: the kind, its version, the identity fields of its stage and the fingerprints of its inputs.
Out: a fingerprint that names the artefact's folder; a list of the differences between two identities; sealed JSON, a
record that carries the sha256 of its own canonical form, so that a damaged one is noticed.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from s2l_ray.errors import DamagedError

SEAL = "sha256_of_the_rest"


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no white space, no NaN. Raises `ValueError` for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(kind: str, version: int, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """12 hex digits of sha256 over the canonical JSON of {kind, version, identity, inputs}."""
    value = {"kind": kind, "version": version, "identity": dict(identity), "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Nested mappings and lists as one level of dotted keys: {"cluster.k": 100, "data.sources.0.rows": 5}."""
    items: list[tuple[str, object]]
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and value:
        items = [(str(position), item) for position, item in enumerate(value)]
    else:
        return {prefix: value}
    return {key: leaf for name, item in items for key, leaf in flatten(item, f"{prefix}.{name}".lstrip(".")).items()}


def describe_drift(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences between two identities, one line a key: `cluster.k: 100 -> 200`."""
    old_flat, new_flat = flatten(old), flatten(new)
    absent = object()
    changed = [key for key in sorted({*old_flat, *new_flat}) if old_flat.get(key, absent) != new_flat.get(key, absent)]
    return [f"{key}: {_shown(old_flat, key)} -> {_shown(new_flat, key)}" for key in changed]


def _shown(flat: Mapping[str, object], key: str) -> str:
    text = json.dumps(flat[key], ensure_ascii=False) if key in flat else "absent"
    return text if len(text) <= 40 else f"{text[:37]}..."


def seal(record: Mapping[str, Any]) -> bytes:
    """The record as indented JSON with the sha256 of its canonical form as a last key."""
    rest = {key: value for key, value in record.items() if key != SEAL}
    digest = hashlib.sha256(canonical_json(rest).encode()).hexdigest()
    return (json.dumps({**rest, SEAL: digest}, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def unseal(data: bytes, place: str) -> dict[str, Any]:
    """The record of a sealed text. Raises `DamagedError` naming `place` where it is not what was sealed."""
    try:
        record: dict[str, Any] = json.loads(data)
        if seal(record) == data:  # every byte, white space too
            return {key: value for key, value in record.items() if key != SEAL}
    except (ValueError, AttributeError):
        pass
    raise DamagedError(f"{place}: damaged, its content is not what was written")
