"""An artifact while it is being built: lock, execution record, manifest, cleanup. Stages and imports share it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.artifacts.execution import Execution, read_execution, write_execution
from s2l_ray.artifacts.lock import Lock
from s2l_ray.artifacts.manifest import MANIFEST, Artifact, Manifest, write_manifest


@dataclass(frozen=True)
class Building:
    """The right to build the artifact at `uri`, of this kind."""

    uri: str
    kind: str
    lock: Lock

    def recorded_execution(self) -> Execution | None:
        """The execution record it was begun with, or None."""
        return read_execution(self.uri, self.kind)

    def begin(self, wanted: Execution) -> Execution:
        """Store and return the execution record. A resume keeps the recorded settings and records changed versions."""
        recorded = self.recorded_execution()
        execution = wanted if recorded is None else recorded.resumed(wanted.libraries)
        if execution != recorded:
            write_execution(self.uri, execution)
        return execution

    def reopen(self) -> None:
        """Make a complete artifact partial again, by deleting its manifest; its units stay."""
        storage.delete_file(storage.join(self.uri, MANIFEST))

    def commit(self, manifest: Manifest, leftovers: Sequence[str] = ()) -> Artifact:
        """Write the manifest, then delete the folders that only the building needed.

        Raises `LockedError` where another driver has taken the artifact over.
        """
        self.lock.check()
        artifact = write_manifest(self.uri, manifest)
        for folder in leftovers:
            storage.delete_folder(storage.join(self.uri, folder))
        return artifact


@contextmanager
def building(uri: str, kind: str, run: str) -> Iterator[Building]:
    """Hold the artifact's lock while the block runs. Raises `LockedError` where a live driver holds it."""
    lock = Lock(uri, run)
    lock.acquire()
    try:
        yield Building(uri, kind, lock)
    finally:
        lock.release()
