"""The store of an S3 bucket, or of a server with the same API, through boto3.

An object is written by one request, or in parts that become visible with the last one. The version of an object is its
ETag.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2l_ray.errors import StorageError
from s2l_ray.storage.s3_client import (
    HINTS,
    client,
    code_of,
    retry_interrupted_body,
    status_of,
    transfer_manager,
    translate_errors,
)
from s2l_ray.storage.store import Entry, Page, list_in_parallel, open_with_range_requests

MAX_DELETES = 1000  # objects per request
CONFLICT, PRECONDITION_FAILED = 409, 412


class S3Store:
    """The store of one bucket."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def exists(self, key: str) -> bool:
        if key and self.find(key) is not None:
            return True
        with translate_errors(self._uri(key)):
            found = client().list_objects_v2(Bucket=self._bucket, Prefix=f"{key}/" if key else "", MaxKeys=1)
        return bool(found["KeyCount"])

    def find(self, key: str) -> Entry | None:
        from botocore.exceptions import ClientError

        with translate_errors(self._uri(key)):
            try:
                head = client().head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise
        return Entry(key.rpartition("/")[2], head["ContentLength"], _nanoseconds(head["LastModified"]), head["ETag"])

    def read(self, key: str) -> tuple[bytes, str]:
        with translate_errors(self._uri(key)):
            return self._read(key)

    def open(self, key: str) -> pa.NativeFile:
        entry = self.find(key)
        if entry is None:
            raise FileNotFoundError(self._uri(key))

        def request_range(start: int, stop: int) -> bytes:
            with translate_errors(self._uri(key)):
                return self._read(key, Range=f"bytes={start}-{stop - 1}", IfMatch=entry.version)[0]

        return open_with_range_requests(request_range, entry.bytes)

    def write(self, key: str, data: bytes) -> None:
        with translate_errors(self._uri(key)):
            client().put_object(Bucket=self._bucket, Key=key, Body=data)

    def write_if(self, key: str, data: bytes, version: str | None) -> str | None:
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with translate_errors(self._uri(key)):
            try:
                response = client().put_object(Bucket=self._bucket, Key=key, Body=data, **condition)
            except ClientError as error:
                if status_of(error) in (404, CONFLICT, PRECONDITION_FAILED) and code_of(error) != "NoSuchBucket":
                    return None
                raise
        return str(response["ETag"])

    def upload(self, source: Path, key: str) -> None:
        with translate_errors(self._uri(key)), transfer_manager() as transfers:
            transfers.upload(str(source), self._bucket, key).result()

    def download(self, key: str, target: Path) -> None:
        with translate_errors(self._uri(key)), transfer_manager() as transfers:
            transfers.download(self._bucket, key, str(target)).result()

    def list_files(self, key: str) -> list[Entry]:
        prefix = f"{key}/" if key else ""
        with translate_errors(self._uri(key)):
            listed = list_in_parallel(self._list_pages, prefix)
        return [
            Entry(one.path.removeprefix(prefix), one.bytes, one.mtime_ns, one.version)
            for one in listed
            if not one.path.endswith("/")
        ]

    def list_folders(self, key: str) -> list[str]:
        prefix = f"{key}/" if key else ""
        with translate_errors(self._uri(key)):
            return [name[len(prefix) : -1] for _, folders in self._list_pages(prefix, False) for name in folders]

    def delete_file(self, key: str) -> None:
        with translate_errors(self._uri(key)):
            client().delete_object(Bucket=self._bucket, Key=key)

    def delete_folder(self, key: str) -> None:
        with translate_errors(self._uri(key)):
            listed = [one.path for one in list_in_parallel(self._list_pages, f"{key}/")]
            for start in range(0, len(listed), MAX_DELETES):
                objects = [{"Key": name} for name in listed[start : start + MAX_DELETES]]
                response = client().delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
                for failed in response.get("Errors", ()):
                    hint = HINTS.get(failed["Code"], failed["Code"])
                    raise StorageError(f"{self._uri(failed['Key'])}: not deleted: {hint}")

    def move_folder(self, source: str, target: str) -> None:
        with translate_errors(self._uri(source)), transfer_manager() as transfers:
            copies = [
                transfers.copy(
                    {"Bucket": self._bucket, "Key": one.path},
                    self._bucket,
                    f"{target}/{one.path.removeprefix(f'{source}/')}",
                )
                for one in list_in_parallel(self._list_pages, f"{source}/")
            ]
            for copy in copies:
                copy.result()
        self.delete_folder(source)

    def list_incomplete_uploads(self, key: str) -> list[Entry]:
        prefix = f"{key}/" if key else ""
        with translate_errors(self._uri(key)):
            pages = client().get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
            uploads = [upload for page in pages for upload in page.get("Uploads", ())]
        return [
            Entry(one["Key"].removeprefix(prefix), 0, _nanoseconds(one["Initiated"]), one["UploadId"])
            for one in uploads
        ]

    def delete_incomplete_upload(self, key: str, entry: Entry) -> None:
        name = f"{key}/{entry.path}" if key else entry.path
        with translate_errors(self._uri(name)), contextlib.suppress(FileNotFoundError):
            client().abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=entry.version)

    def _read(self, key: str, **options: str) -> tuple[bytes, str]:
        def get() -> tuple[bytes, str]:
            response = client().get_object(Bucket=self._bucket, Key=key, **options)
            return response["Body"].read(), str(response["ETag"])

        return retry_interrupted_body(get)

    def _list_pages(self, prefix: str, flat: bool) -> Iterator[Page]:
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
