"""The boto3 client of this process: timeouts, retries, transfers of files, and error messages with hints.

Endpoint, region and credentials are those that boto3 finds: environment, shared config files, instance role.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from s2l_ray.errors import ConfigError, StorageError
from s2l_ray.storage.store import ATTEMPTS, CONNECT_SECONDS, READ_SECONDS, THREADS

T = TypeVar("T")
PART_BYTES = 64 << 20
HINTS = {
    "NoSuchBucket": "the bucket does not exist; create it, or correct its name",
    "AccessDenied": "access denied; the credentials need permission to list, read, write and delete",
    "InvalidAccessKeyId": "unknown access key; correct AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret does not match the access key; correct AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    "ExpiredToken": "the credentials have expired; renew them, then run again",
    "InvalidToken": "the session token was rejected; renew AWS_SESSION_TOKEN, or unset it",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION (or AWS_DEFAULT_REGION)",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION (or AWS_DEFAULT_REGION)",
    "PreconditionFailed": "the object was replaced while it was being read; run again",
}
# The response to a HEAD request has no body, and so no error code.
CODE_BY_STATUS = {301: "PermanentRedirect", 403: "AccessDenied"}

_client_lock = threading.Lock()


def client() -> Any:
    """The client for this process and its environment. Threads may share it; a forked process gets its own."""
    settings = tuple(item for item in os.environ.items() if item[0].startswith("AWS_"))
    with _client_lock:
        return _cached_client(os.getpid(), settings)


@lru_cache(maxsize=1)
def _cached_client(process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ConfigError("s3:// needs the package boto3; pip install 's2l_ray[s3]'") from error
    has_endpoint = bool({"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} & dict(settings).keys())
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=2 * THREADS,
        s3={"addressing_style": "path"} if has_endpoint else None,  # such servers have one host name for all buckets
    )
    return boto3.session.Session().client("s3", config=config)


@contextmanager
def transfer_manager() -> Iterator[Any]:
    """Transfers of whole files, multipart where they are large; leaving the block early cancels them."""
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    parts = TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, num_download_attempts=ATTEMPTS
    )
    with create_transfer_manager(client(), parts) as manager:
        yield manager


def retry_interrupted_body(get: Callable[[], T]) -> T:
    """Call `get` until the response body is complete: botocore retries requests, but not interrupted bodies."""
    from botocore.exceptions import FlexibleChecksumError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    for attempt in range(1, ATTEMPTS):
        try:
            return get()
        except (FlexibleChecksumError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
            time.sleep(min(10, 0.1 * 2**attempt))
    return get()


@contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Raise failures of the block as `FileNotFoundError`, or as `StorageError` with the URI and a hint."""
    client()  # raises ConfigError if boto3 is not installed
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError

    try:
        yield
    except ClientError as error:
        if code_of(error) in ("NoSuchKey", "404"):
            raise FileNotFoundError(uri) from error
        raise StorageError(f"{uri}: {_response_hint(error)}") from error
    except (BotoCoreError, RetriesExceededError) as error:
        # Not chained: the original message may contain the endpoint with its credentials.
        raise StorageError(f"{uri}: {_connection_hint(error)}") from None


def _response_hint(error: Any) -> str:
    """Message for an error response of the server."""
    status = status_of(error)
    code = CODE_BY_STATUS.get(status, code_of(error)) if code_of(error) == str(status) else code_of(error)
    if status >= 500 or code in ("SlowDown", "Throttling", "RequestLimitExceeded"):
        return (
            f"the store answered {status} {code} {ATTEMPTS} times; completed work is stored: run again later to resume"
        )
    return HINTS.get(code) or f"{code}: {error.response.get('Error', {}).get('Message', '')}"


def _connection_hint(error: Exception) -> str:
    """Message for a request without a complete response."""
    from botocore import exceptions

    error = getattr(error, "last_exception", error)
    name = type(error).__name__
    if "Credential" in name or isinstance(error, exceptions.ProfileNotFound | exceptions.SSOError):
        return (
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or attach a role to "
            "this machine"
        )
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError | exceptions.IncompleteReadError):
        host = urlsplit(client().meta.endpoint_url).netloc.rpartition("@")[2]
        return (
            f"no complete response from {host} in {ATTEMPTS} attempts ({name}); check AWS_ENDPOINT_URL and the network"
        )
    return f"{name}: {next(iter(str(error).splitlines()), '')}"


def status_of(error: Any) -> int:
    """HTTP status of a botocore `ClientError`."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: Any) -> str:
    """Error code of a botocore `ClientError`; the HTTP status where the response had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))
