"""The one client of S3 in a process: its timeouts and retries, transfers of files, and what its errors mean.

In: requests of `s3_store`. Out: whole answers, or the failure in words that name the remedy. Endpoint, region and
credentials come from where boto3 looks for them: the environment, the shared files, the machine's role.
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
REMEDIES = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the place",
    "AccessDenied": "access denied; the credentials need the right to list, read, write and delete there",
    "InvalidAccessKeyId": "the access key is unknown there; correct AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret does not fit the access key; correct AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    "ExpiredToken": "the credentials have expired; renew them, then run again",
    "InvalidToken": "the session token is refused; renew AWS_SESSION_TOKEN, or unset it",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "PermanentRedirect": "the bucket lies in another region; set AWS_REGION (or AWS_DEFAULT_REGION)",
    "AuthorizationHeaderMalformed": "the bucket lies in another region; set AWS_REGION (or AWS_DEFAULT_REGION)",
    "PreconditionFailed": "the object was replaced while it was read; run again",
}
BY_STATUS = {301: "PermanentRedirect", 403: "AccessDenied"}
"""A HEAD request has no body that could name the error."""


_making = threading.Lock()


def client() -> Any:
    """The client of this process and its environment. boto3's may be shared by threads, but not carried into a fork."""
    settings = tuple(item for item in os.environ.items() if item[0].startswith("AWS_"))
    with _making:
        return _client_of(os.getpid(), settings)


@lru_cache(maxsize=1)
def _client_of(process: int, settings: tuple[tuple[str, str], ...]) -> Any:
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
        s3={"addressing_style": "path"} if has_endpoint else None,  # one host name for all buckets
    )
    return boto3.session.Session().client("s3", config=config)


@contextmanager
def transfers() -> Iterator[Any]:
    """Copies of whole files, in parts where they are large; left early, it ends them and what they had put."""
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    parts = TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, num_download_attempts=ATTEMPTS
    )
    with create_transfer_manager(client(), parts) as manager:
        yield manager


def whole(get: Callable[[], T]) -> T:
    """The answer with all of its body: botocore retries a request, but not one whose body broke off."""
    from botocore.exceptions import FlexibleChecksumError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    for attempt in range(1, ATTEMPTS):
        try:
            return get()
        except (FlexibleChecksumError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
            time.sleep(min(10, 0.1 * 2**attempt))
    return get()


@contextmanager
def telling(uri: str) -> Iterator[None]:
    """Failures of the block as `FileNotFoundError`, or as a `StorageError` with the place and the remedy."""
    client()  # says what is missing where there is no boto3
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError

    try:
        yield
    except ClientError as error:
        if code_of(error) in ("NoSuchKey", "404"):
            raise FileNotFoundError(uri) from error
        raise StorageError(f"{uri}: {_remedy_of_answer(error)}") from error
    except (BotoCoreError, RetriesExceededError) as error:
        raise StorageError(f"{uri}: {_remedy_of_silence(error)}") from None  # it may quote the whole endpoint


def _remedy_of_answer(error: Any) -> str:
    """What a refusal by the server means, and what to do about it."""
    status = status_of(error)
    code = BY_STATUS.get(status, code_of(error)) if code_of(error) == str(status) else code_of(error)
    if status >= 500 or code in ("SlowDown", "Throttling", "RequestLimitExceeded"):
        return f"the store answered {status} {code} {ATTEMPTS} times; what is finished stays: run again later"
    return REMEDIES.get(code) or f"{code}: {error.response.get('Error', {}).get('Message', '')}"


def _remedy_of_silence(error: Exception) -> str:
    """What a request that got no whole answer means, and what to do about it."""
    from botocore import exceptions

    error = getattr(error, "last_exception", error)
    if "Credential" in type(error).__name__ or isinstance(error, exceptions.ProfileNotFound | exceptions.SSOError):
        return "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give it a role"
    name = type(error).__name__
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError | exceptions.IncompleteReadError):
        where = urlsplit(client().meta.endpoint_url).netloc.rpartition("@")[2]
        return f"no whole answer from {where} in {ATTEMPTS} attempts ({name}); check AWS_ENDPOINT_URL and the network"
    return f"{name}: {next(iter(str(error).splitlines()), '')}"


def status_of(error: Any) -> int:
    """The HTTP status of a refusal."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: Any) -> str:
    """The error code of a refusal; the HTTP status where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))
