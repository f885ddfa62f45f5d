"""Receipts: sealed records that a unit with several files, or with counts of its own, is complete.

A receipt is written after the unit's files. It holds the unit's key (what it was made from) and its result.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import ValidationError

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import from_json, seal, unseal
from s2l_ray.artifacts.tables import FileRecord, check_file
from s2l_ray.errors import DamagedError


class UnitResult(Protocol):
    """A dataclass with the files that the unit wrote."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def files(self) -> Sequence[FileRecord]:
        """Records of the unit's files."""


Result = TypeVar("Result", bound=UnitResult)


def write_receipt(folder: str, path: str, key: Mapping[str, str], result: Result) -> Result:
    storage.write_bytes(storage.join(folder, path), seal({"key": dict(key), "result": dataclasses.asdict(result)}))
    return result


def read_receipt(folder: str, path: str, key: Mapping[str, str], record: type[Result]) -> Result | None:
    """The result of a complete unit with this key whose files are all intact, else None.

    A receipt that another version of s2l_ray wrote does not match `record` either.
    """
    try:
        receipt = unseal(storage.read_bytes(storage.join(folder, path)), path)
        if receipt["key"] != dict(key):
            return None
        result = from_json(record, receipt["result"])
        for file in result.files:
            check_file(folder, file)
    except (FileNotFoundError, DamagedError, KeyError, ValidationError):
        return None
    return result
