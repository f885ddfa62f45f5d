"""The fsspec file system of buckets, from which Arrow makes one of its own.

Arrow's file systems for buckets have retries and credentials of their own, and create an empty object per
folder, which obstore lists as a file.
"""

import contextlib

from obstore.fsspec import BufferedFile, FsspecStore

from s2l_ray.storage.object_store import Bucket, open_bucket


class ArrowFile(BufferedFile):
    """A file that Arrow can write to: it passes buffers of signed bytes, which obstore refuses."""

    def write(self, data: bytes) -> int:
        return super().write(memoryview(data).cast("B"))  # type: ignore[arg-type]


class BucketFileSystem(FsspecStore):
    """All buckets of a scheme. A pickled instance uses the environment of the process that loads it."""

    def __init__(self, scheme: str) -> None:
        super().__init__(scheme)  # type: ignore[call-overload]

    def _construct_store(self, bucket: str) -> Bucket:
        scheme = str(self.protocol)
        return open_bucket(scheme, bucket, f"{scheme}://{bucket}")

    async def _rm_file(self, path: str, **_: object) -> None:
        with contextlib.suppress(FileNotFoundError):  # of a folder, whose name fsspec deletes as well
            await super()._rm_file(path)

    def _open(self, path: str, mode: str = "rb", **_: object) -> BufferedFile:  # type: ignore[override]
        return ArrowFile(self, path, mode)  # type: ignore[call-overload,no-any-return]
