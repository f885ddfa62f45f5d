"""A stand-in for Google Cloud Storage over HTTP: the package gcp-storage-emulator, with what it lacks of the real one.

It knows neither preconditions nor the header that tells an object's generation; both are added here as the JSON API
documents them. What it answers is no proof of what the real store does.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from tests.support.s3 import free_ports

BUCKET = "s2l"


@pytest.fixture(scope="session")
def gcs_endpoint() -> Iterator[str]:
    """The emulator, with one empty bucket, for this test session. Skips where the packages are not installed."""
    pytest.importorskip("google.cloud.storage", reason="gs:// needs google-cloud-storage")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="no gcp-storage-emulator")
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patched:
        _complete(patched)
        server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
        server.start()
        yield f"http://127.0.0.1:{port}"
        server.stop()


@pytest.fixture
def gcs(gcs_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A place of the test's own in the bucket."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_endpoint)
    return f"gs://{BUCKET}/{request.node.name}"


def _complete(patched: pytest.MonkeyPatch) -> None:
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    upload, download = objects._multipart_upload, objects.download

    def generation(storage: Any, bucket: str, name: str) -> str:
        try:
            return str(storage.get_file_obj(bucket, name)["generation"])
        except NotFound:
            return "0"

    def upload_if(request: Any, response: Any, storage: Any) -> None:
        wanted = request.query.get("ifGenerationMatch", [None])[0]
        if wanted in (None, generation(storage, request.params["bucket_name"], request.data["meta"]["name"])):
            upload(request, response, storage)
        else:
            response.status = HTTPStatus.PRECONDITION_FAILED

    def download_with_generation(request: Any, response: Any, storage: Any, *rest: Any, **options: Any) -> None:
        response["X-Goog-Generation"] = generation(storage, request.params["bucket_name"], request.params["object_id"])
        download(request, response, storage, *rest, **options)

    patched.setattr(objects, "_multipart_upload", upload_if)
    patched.setattr(objects, "download", download_with_generation)
    _exchange(patched, download, download_with_generation)


def _exchange(patched: pytest.MonkeyPatch, old: Any, new: Any) -> None:
    """The emulator's table of routes holds the functions themselves."""
    from gcp_storage_emulator import server

    routes = [
        (pattern, {method: new if function is old else function for method, function in methods.items()})
        for pattern, methods in server.HANDLERS
    ]
    patched.setattr(server, "HANDLERS", tuple(routes))
