"""Failures of requests to an object store, as `FileNotFoundError` or an `S2LError` with the URI and a hint.

obstore reports the status and the error code of a response only in the text of its exceptions. That text is not passed
on: it contains the endpoint, which may contain credentials.
"""

import re

from s2l_ray.errors import ConfigError, StorageError

MISSING_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
WRONG_REGION = "the bucket is in another region; set AWS_REGION (or AWS_DEFAULT_REGION)"
HINTS = {
    "InvalidAccessKeyId": "unknown access key; correct AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret does not match the access key; correct AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    "ExpiredToken": "the credentials have expired; renew them, then run again",
    "InvalidToken": "the session token was rejected; renew AWS_SESSION_TOKEN, or unset it",
    "AuthenticationFailed": "the credentials were rejected; correct AZURE_STORAGE_ACCOUNT_KEY",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "PermanentRedirect": WRONG_REGION,
    "AuthorizationHeaderMalformed": WRONG_REGION,
    "301": WRONG_REGION,
    "401": "the credentials were rejected; renew them, then run again",
    "403": "access denied; the credentials need permission to list, read, write and delete",
    "412": "the object was replaced while it was being read; run again",
}
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or attach a role to this machine",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or attach a service account to this machine",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or attach an identity to this machine",
}
ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}
# Addresses of the services that issue credentials, and messages of obstore where a setting is missing.
CREDENTIAL_SERVICES = re.compile(r"https?://(169\.254\.|metadata|oauth2|sts\.|login\.)|[Cc]redential")
# NoSuchUpload: the response to a completed multipart upload was lost, and the upload has to be repeated.
REPEATABLE = {"RequestTimeout", "SlowDown", "NoSuchUpload", "InvalidPart", "408", "429"}


def is_repeatable(error: Exception) -> bool:
    """Whether a failed request may succeed if it is repeated, and obstore has not repeated it."""
    text = _message(error)
    status, code = _status(text), _code(text)
    if {status, code} & REPEATABLE:
        return True
    return not (
        status or " retries, max_retries" in text or "Error parsing" in text or CREDENTIAL_SERVICES.search(text)
    )


def translate(error: Exception, uri: str) -> Exception:
    text, scheme = _message(error), uri.partition(":")[0]
    status, code = _status(text), _code(text)
    if code in MISSING_BUCKET:
        return StorageError(f"{uri}: the bucket does not exist; create it, or correct its name")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(uri)
    if isinstance(error, ValueError):
        return ConfigError(f"{uri}: not a valid name; remove empty parts, '.', '..' and control characters")
    if CREDENTIAL_SERVICES.search(text):
        return StorageError(f"{uri}: no credentials; set {CREDENTIALS[scheme]}")
    if status.startswith("5") or status == "429":
        return StorageError(
            f"{uri}: the store answered {' '.join(filter(None, (status, code)))} to every attempt; completed work is "
            "stored: run again later to resume"
        )
    hint = HINTS.get(code) or HINTS.get(status)
    if hint is None and "redirect" in text:
        hint = WRONG_REGION
    if hint is None and status:
        detail = re.search(r"<Message>([^<]*)", text)
        hint = f"the store answered {status} {code}: {detail[1] if detail else ''}".rstrip(": ")
    if hint is None:
        host = re.search(r"https?://(?:[^/\s]*@)?([^/\s?]+)", text)
        hint = (
            f"no complete response from {host[1] if host else 'the store'} in any attempt; "
            f"check {ENDPOINTS[scheme]} and the network"
        )
    return StorageError(f"{uri}: {hint}")


def is_missing_bucket(error: FileNotFoundError) -> bool:
    """Whether the bucket is missing, not the object."""
    return _code(_message(error)) in MISSING_BUCKET


def _message(error: Exception) -> str:
    return str(error).partition("\n\nDebug source")[0]


def _status(text: str) -> str:
    found = re.search(r"status code: (\d+)|\(code: (\d+)\)", text)
    return (found[1] or found[2]) if found else ""


def _code(text: str) -> str:
    found = re.search(r"<Code>(\w+)</Code>", text)
    return found[1] if found else ""
