"""Fingerprints, differences between identities, and sealed records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.artifacts.fingerprint import canonical_json, describe_differences, fingerprint, flatten, seal, unseal
from s2l_ray.errors import DamagedError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_the_order_of_keys_does_not_matter() -> None:
    one = fingerprint("clusters", 1, {"k": 100, "seed": 0}, {"trajectories": "a" * 12})
    assert one == fingerprint("clusters", 1, {"seed": 0, "k": 100}, {"trajectories": "a" * 12})
    assert len(one) == 12 and int(one, 16) >= 0


@pytest.mark.parametrize(
    "other",
    [
        ("dataset", 1, {"k": 100}, {"trajectories": "a"}),
        ("clusters", 2, {"k": 100}, {"trajectories": "a"}),
        ("clusters", 1, {"k": 101}, {"trajectories": "a"}),
        ("clusters", 1, {"k": 100}, {"trajectories": "b"}),
    ],
)
def test_the_fingerprint_depends_on_every_part(other: tuple[str, int, dict[str, int], dict[str, str]]) -> None:
    assert fingerprint(*other) != fingerprint("clusters", 1, {"k": 100}, {"trajectories": "a"})


def test_nan_has_no_canonical_form() -> None:
    with pytest.raises(ValueError):
        canonical_json({"x": float("nan")})


def test_differences_name_keys_and_values() -> None:
    old = {"cluster": {"k": 100, "seed": 0}, "data": {"sources": [{"rows": 5}]}}
    new = {"cluster": {"k": 200, "seed": 0}, "data": {"sources": [{"rows": 5}, {"rows": 7}]}}
    assert describe_differences(old, new) == ["cluster.k: 100 -> 200", "data.sources.1.rows: absent -> 7"]
    assert describe_differences(old, old) == []


def test_flatten_keeps_empty_values() -> None:
    assert flatten({"a": {}, "b": [], "c": {"d": None}}) == {"a": {}, "b": [], "c.d": None}


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_sealed_record_is_read_back_and_a_changed_byte_is_detected(record: dict[str, object]) -> None:
    data = seal(record)
    assert unseal(data, "here") == {key: value for key, value in record.items() if key != "sha256_of_the_rest"}
    for position in range(0, len(data), max(1, len(data) // 16)):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(DamagedError, match="here"):
            unseal(changed, "here")
