"""Azurite, Microsoft's emulator of Azure Blob Storage, for tests: `npm install -g azurite`."""

import base64
import contextlib
import email.utils
import hashlib
import hmac
import http.client
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.s3 import free_ports

CONTAINER = "s2l"
ACCOUNT = "devstoreaccount1"
# the published key of every emulator
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
START_SECONDS = 30


@pytest.fixture(scope="session")
def running_azurite() -> Iterator[str]:
    """Endpoint of an emulator with one empty container. Skips if Azurite is not installed."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("no azurite-blob on the PATH")
    (port,) = free_ports(1)
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
    process = subprocess.Popen([program, *options, "--disableTelemetry"])
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _create_container(port):
            assert process.poll() is None and time.monotonic() < deadline, "Azurite did not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def azure(running_azurite: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URI of a new folder in the container."""
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", running_azurite)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    return f"az://{CONTAINER}/{re.sub('[^a-z0-9_]', '-', request.node.name)}"


def _create_container(port: int) -> bool:
    """Whether the container was created; obstore cannot create one."""
    date = email.utils.formatdate(usegmt=True)
    path = f"/{ACCOUNT}/{CONTAINER}"
    signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:2020-10-02\n/{ACCOUNT}{path}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
    headers = {"x-ms-date": date, "x-ms-version": "2020-10-02", "Authorization": f"SharedKey {ACCOUNT}:{signature}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("PUT", f"{path}?restype=container", headers=headers | {"Content-Length": "0"})
        return connection.getresponse().status == http.HTTPStatus.CREATED
    return False
