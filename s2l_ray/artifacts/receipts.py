"""A receipt: the sealed note that a unit with several files, or with counts of its own, is done.

In: the facts a unit was made from, its result and its files. Out: the result again, if a receipt of exactly these facts
lies there and every file it names is whole.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal, unseal
from s2l_ray.artifacts.tables import FileRecord, check_file
from s2l_ray.errors import DamagedError


def write_receipt(
    folder: str, path: str, facts: Mapping[str, str], result: Mapping[str, Any], files: Sequence[FileRecord]
) -> dict[str, Any]:
    """Put the receipt, after the files, and give the whole result: what was passed and the files' records."""
    whole = {**result, "files": [dataclasses.asdict(record) for record in files]}
    storage.write_bytes(storage.join(folder, path), seal({"facts": dict(facts), "result": whole}))
    return whole


def read_receipt(folder: str, path: str, facts: Mapping[str, str]) -> dict[str, Any] | None:
    """The result of a unit that is done and whole; None where it has to be made."""
    try:
        receipt = unseal(storage.read_bytes(storage.join(folder, path)), path)
        if receipt["facts"] != dict(facts):
            return None
        for record in receipt["result"]["files"]:
            check_file(folder, FileRecord(**record))
    except (FileNotFoundError, DamagedError):
        return None
    result: dict[str, Any] = receipt["result"]
    return result
