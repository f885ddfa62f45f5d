"""A real S3 server for tests: SeaweedFS over HTTP on 127.0.0.1, started once per test session."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

BUCKET = "s2l"
KEY, SECRET = "test-access-key", "test-secret-key-0123456789"
SERVICES = ("master.port", "volume.port", "filer.port", "admin.port")
FLAGS = (
    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false", "-webdav=false"),
    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false", f"-bucket={BUCKET}"),
)
START_SECONDS = 60


@dataclass(frozen=True)
class S3Server:
    """A running server. `environment`: the variables with which a process uses it."""

    endpoint: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        return environment_of(self.endpoint)


def environment_of(endpoint: str) -> dict[str, str]:
    """Variables that point every S3 client to an endpoint, with the credentials of the tests."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server that stores its data in `folder` and has one empty bucket."""
    folder.mkdir(parents=True, exist_ok=True)
    port, grpc, *others = free_ports(2 + 2 * len(SERVICES))
    ports = [f"-s3.port={port}", f"-s3.port.grpc={grpc}"]
    for name, http, rpc in zip(SERVICES, others[::2], others[1::2], strict=True):
        ports += [f"-{name}={http}", f"-{name}.grpc={rpc}"]
    command = [os.path.join(sysconfig.get_path("scripts"), "weed"), "mini", f"-dir={folder}", *FLAGS, *ports]
    endpoint = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        environment = os.environ | environment_of(endpoint)
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        _wait_for_bucket(process, endpoint, folder / "log")
        yield S3Server(endpoint, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def free_ports(number: int) -> list[int]:
    """Unused ports of 127.0.0.1, outside the range of the ports of Ray's workers."""
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        while len(sockets) < number:
            one = stack.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            if not 10002 <= one.getsockname()[1] <= 19999:
                sockets.append(one)
        return [one.getsockname()[1] for one in sockets]


def _wait_for_bucket(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    """Wait until the bucket exists, which is shortly after the port is open."""
    keys = {"access_key_id": KEY, "secret_access_key": SECRET}
    bucket = S3Store(BUCKET, endpoint=endpoint, region="us-east-1", client_options={"allow_http": True}, **keys)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(BaseError):
            obstore.list(bucket).collect()
            return
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def running_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server of this test session."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(running_s3: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URI of a new folder in the bucket; the environment points to the server during the test."""
    use_endpoint(running_s3.endpoint, monkeypatch)
    return f"s3://{BUCKET}/{re.sub('[^a-z0-9_]', '-', request.node.name)}-{time.monotonic_ns()}"


def use_endpoint(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process, and processes it starts, use an endpoint."""
    for name, value in environment_of(endpoint).items():
        monkeypatch.setenv(name, value)
