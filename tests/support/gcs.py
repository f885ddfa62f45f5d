"""An emulator of Google Cloud Storage over HTTP: the package gcp-storage-emulator, with two additions.

The package supports neither preconditions nor the header with the generation of an object; both are added here as the
JSON API documents them. The real service may behave differently.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from tests.support.s3 import free_ports

BUCKET = "s2l"


@pytest.fixture(scope="session")
def gcs_endpoint() -> Iterator[str]:
    """Endpoint of the emulator, with one empty bucket. Skips if the packages are not installed."""
    pytest.importorskip("google.cloud.storage", reason="gs:// needs google-cloud-storage")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="no gcp-storage-emulator")
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patched:
        _add_preconditions(patched)
        server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
        server.start()
        yield f"http://127.0.0.1:{port}"
        server.stop()


@pytest.fixture
def gcs(gcs_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URI of a new folder in the bucket."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_endpoint)
    return f"gs://{BUCKET}/{request.node.name}"


def _add_preconditions(patched: pytest.MonkeyPatch) -> None:
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
    _replace_handler(patched, download, download_with_generation)


def _replace_handler(patched: pytest.MonkeyPatch, old: Any, new: Any) -> None:
    """Replace a function in the emulator's table of routes."""
    from gcp_storage_emulator import server

    routes = [
        (pattern, {method: new if function is old else function for method, function in methods.items()})
        for pattern, methods in server.HANDLERS
    ]
    patched.setattr(server, "HANDLERS", tuple(routes))
