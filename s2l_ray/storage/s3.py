"""A bucket of S3, or of a server that speaks its protocol, through boto3.

In: the bucket's name; endpoint, region and credentials from the environment's usual places. Out: the operations of
`stores.Store`. One client a process, with one set of timeouts and retries; an object is put by one request, or in parts
that show only once the last of them has arrived.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2l_ray.errors import StorageError
from s2l_ray.storage.s3_client import REMEDIES, client, code_of, status_of, telling, transfers, whole
from s2l_ray.storage.store import Entry, Page, list_in_parallel, open_ranges

DELETE_AT_ONCE = 1000
CONFLICT, PRECONDITION_FAILED = 409, 412


class S3Store:
    """The store of one bucket."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def exists(self, key: str) -> bool:
        if key and self.find(key) is not None:
            return True
        with telling(self._uri(key)):
            found = client().list_objects_v2(Bucket=self._bucket, Prefix=f"{key}/" if key else "", MaxKeys=1)
        return bool(found["KeyCount"])

    def find(self, key: str) -> Entry | None:
        from botocore.exceptions import ClientError

        with telling(self._uri(key)):
            try:
                head = client().head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise
        return Entry(key.rpartition("/")[2], head["ContentLength"], _nanoseconds(head["LastModified"]), head["ETag"])

    def read(self, key: str) -> tuple[bytes, str]:
        with telling(self._uri(key)):
            return self._read(key)

    def open(self, key: str) -> pa.NativeFile:
        entry = self.find(key)
        if entry is None:
            raise FileNotFoundError(self._uri(key))

        def read_range(start: int, stop: int) -> bytes:
            with telling(self._uri(key)):
                return self._read(key, Range=f"bytes={start}-{stop - 1}", IfMatch=entry.version)[0]

        return open_ranges(read_range, entry.bytes)

    def write(self, key: str, data: bytes) -> None:
        with telling(self._uri(key)):
            client().put_object(Bucket=self._bucket, Key=key, Body=data)

    def write_if(self, key: str, data: bytes, version: str | None) -> str | None:
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with telling(self._uri(key)):
            try:
                answer = client().put_object(Bucket=self._bucket, Key=key, Body=data, **condition)
            except ClientError as error:
                if status_of(error) in (404, CONFLICT, PRECONDITION_FAILED) and code_of(error) != "NoSuchBucket":
                    return None
                raise
        return str(answer["ETag"])

    def upload(self, source: Path, key: str) -> None:
        with telling(self._uri(key)), transfers() as moving:
            moving.upload(str(source), self._bucket, key).result()

    def download(self, key: str, target: Path) -> None:
        with telling(self._uri(key)), transfers() as moving:
            moving.download(self._bucket, key, str(target)).result()

    def list_files(self, key: str) -> list[Entry]:
        prefix = f"{key}/" if key else ""
        with telling(self._uri(key)):
            listed = list_in_parallel(self._pages, prefix)
        return [
            Entry(one.path.removeprefix(prefix), one.bytes, one.mtime_ns, one.version)
            for one in listed
            if not one.path.endswith("/")
        ]

    def list_folders(self, key: str) -> list[str]:
        prefix = f"{key}/" if key else ""
        with telling(self._uri(key)):
            return [name[len(prefix) : -1] for _, folders in self._pages(prefix, False) for name in folders]

    def delete_file(self, key: str) -> None:
        with telling(self._uri(key)):
            client().delete_object(Bucket=self._bucket, Key=key)

    def delete_folder(self, key: str) -> None:
        with telling(self._uri(key)):
            listed = [one.path for one in list_in_parallel(self._pages, f"{key}/")]
            for start in range(0, len(listed), DELETE_AT_ONCE):
                some = [{"Key": name} for name in listed[start : start + DELETE_AT_ONCE]]
                answer = client().delete_objects(Bucket=self._bucket, Delete={"Objects": some, "Quiet": True})
                for failed in answer.get("Errors", ()):
                    remedy = REMEDIES.get(failed["Code"], failed["Code"])
                    raise StorageError(f"{self._uri(failed['Key'])}: not removed: {remedy}")

    def move_folder(self, source: str, target: str) -> None:
        with telling(self._uri(source)), transfers() as moving:
            copies = [
                moving.copy(
                    {"Bucket": self._bucket, "Key": one.path},
                    self._bucket,
                    f"{target}/{one.path.removeprefix(f'{source}/')}",
                )
                for one in list_in_parallel(self._pages, f"{source}/")
            ]
            for copy in copies:
                copy.result()
        self.delete_folder(source)

    def list_broken_off(self, key: str) -> list[Entry]:
        prefix = f"{key}/" if key else ""
        with telling(self._uri(key)):
            pages = client().get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
            begun = [upload for page in pages for upload in page.get("Uploads", ())]
        return [
            Entry(one["Key"].removeprefix(prefix), 0, _nanoseconds(one["Initiated"]), one["UploadId"]) for one in begun
        ]

    def delete_broken_off(self, key: str, entry: Entry) -> None:
        name = f"{key}/{entry.path}" if key else entry.path
        with telling(self._uri(name)), contextlib.suppress(FileNotFoundError):
            client().abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=entry.version)

    def _read(self, key: str, **options: str) -> tuple[bytes, str]:
        def get() -> tuple[bytes, str]:
            answer = client().get_object(Bucket=self._bucket, Key=key, **options)
            return answer["Body"].read(), str(answer["ETag"])

        return whole(get)

    def _pages(self, prefix: str, flat: bool) -> Iterator[Page]:
        folders = {} if flat else {"Delimiter": "/"}
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix, **folders)
        for page in pages:
            entries = [
                Entry(one["Key"], one["Size"], _nanoseconds(one["LastModified"]), one["ETag"])
                for one in page.get("Contents", ())
            ]
            yield entries, [one["Prefix"] for one in page.get("CommonPrefixes", ())]

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"


def _nanoseconds(moment: Any) -> int:
    return int(moment.timestamp()) * 1_000_000_000
