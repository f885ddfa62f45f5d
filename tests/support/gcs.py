"""A server for tests with the part of Google Cloud Storage's XML API that the package uses, on 127.0.0.1.

Objects are held in memory. Preconditions, listings and multipart uploads follow the documentation of the API; the real
service may behave differently.
"""

import itertools
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

BUCKET = "s2l"
UNCONDITIONAL = "unconditional"  # a bucket that ignores preconditions
PAGE = 1000
MODIFIED, MODIFIED_ISO = "Fri, 27 Nov 2026 10:00:00 GMT", "2026-11-27T10:00:00.000Z"


@dataclass
class Objects:
    """Content and generation of each object, and the parts of each multipart upload."""

    stored: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    ignores_preconditions: bool = False

    def put(self, name: str, data: bytes, wanted: str | None = None) -> int | None:
        """New generation of an object, or None if its current one is not the wanted one ("0": no object)."""
        with self.lock:
            current = self.stored[name][1] if name in self.stored else 0
            if wanted not in (None, str(current)) and not self.ignores_preconditions:
                return None
            self.stored[name] = data, next(self.numbers)
            return self.stored[name][1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    buckets: dict[str, Objects]
    objects: Objects

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self, status: int, body: bytes = b"", generation: int = 0, **headers: str) -> None:
        self.send_response_only(status)
        if generation:
            headers |= {"x-goog-generation": str(generation), "ETag": f'"{generation}"', "Last-Modified": MODIFIED}
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, name = unquote(parts.path.lstrip("/")).partition("/")
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if bucket not in self.buckets:
            self._error(404, "NoSuchBucket")
            return
        self.objects = self.buckets[bucket]
        if not name:
            self._list(query)
        elif self.command in ("GET", "HEAD"):
            self._get(name)
        elif self.command == "DELETE":
            self._answer(204) if self.objects.stored.pop(name, None) else self._error(404, "NoSuchKey")
        else:
            self._write(name, body, query)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _get(self, name: str) -> None:
        if name not in self.objects.stored:
            self._error(404, "NoSuchKey")
            return
        data, generation = self.objects.stored[name]
        if self.headers.get("If-Match") not in (None, f'"{generation}"'):
            self._error(412, "PreconditionFailed")
        elif found := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or ""):
            part = data[int(found[1]) : int(found[2]) + 1]
            stop = int(found[1]) + len(part) - 1
            self._answer(206, part, generation, **{"Content-Range": f"bytes {found[1]}-{stop}/{len(data)}"})
        elif self.command == "HEAD":
            self._answer(200, b"", generation, **{"Content-Length": str(len(data))})
        else:
            self._answer(200, data, generation)

    def _write(self, name: str, body: bytes, query: dict[str, str]) -> None:
        uploads = self.objects.uploads
        if "uploads" in query:
            upload = str(next(self.objects.numbers))
            uploads[upload] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            self._answer(200, text.encode())
        elif "partNumber" in query:
            uploads[query["uploadId"]][int(query["partNumber"])] = body
            self._answer(200, ETag=f'"{query["partNumber"]}"')
        elif "uploadId" in query:
            parts = uploads.pop(query["uploadId"])
            generation = self.objects.put(name, b"".join(parts[number] for number in sorted(parts)))
            text = f'<CompleteMultipartUploadResult><ETag>"{generation}"</ETag></CompleteMultipartUploadResult>'
            self._answer(200, text.encode(), generation or 0)
        elif source := self.headers.get("x-goog-copy-source"):
            data, _ = self.objects.stored[unquote(source).partition("/")[2]]
            self._answer(200, b"", self.objects.put(name, data) or 0)
        else:
            generation = self.objects.put(name, body, self.headers.get("x-goog-if-generation-match"))
            self._answer(200, b"", generation) if generation else self._error(412, "PreconditionFailed")

    def _list(self, query: dict[str, str]) -> None:
        prefix, start = query.get("prefix", ""), query.get("continuation-token", "")
        names, folders = [], set()
        for name in sorted(self.objects.stored):
            folder, slash, _ = name.removeprefix(prefix).partition("/")
            if name.startswith(prefix) and "delimiter" in query and slash:
                folders.add(f"{prefix}{folder}/")
            elif name.startswith(prefix) and name > start:
                names.append(name)
        more = f"<NextContinuationToken>{escape(names[PAGE - 1])}</NextContinuationToken>" if len(names) > PAGE else ""
        text = "".join(map(self._listed, names[:PAGE]))
        text += "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders))
        self._answer(200, f"<ListBucketResult>{text}{more}</ListBucketResult>".encode())

    def _listed(self, name: str) -> str:
        data, generation = self.objects.stored[name]
        return (
            f"<Contents><Key>{escape(name)}</Key><Size>{len(data)}</Size><ETag>&quot;{generation}&quot;</ETag>"
            f"<LastModified>{MODIFIED_ISO}</LastModified></Contents>"
        )


class GCSServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        buckets = {BUCKET: Objects(), UNCONDITIONAL: Objects(ignores_preconditions=True)}
        super().__init__(("127.0.0.1", 0), type("_Handler", (Handler,), {"buckets": buckets}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture(scope="session")
def running_gcs() -> Iterator[GCSServer]:
    """The server of this test session, with two empty buckets."""
    with GCSServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def gcs(running_gcs: GCSServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URI of a new folder in the bucket."""
    account = {"gcs_base_url": running_gcs.endpoint, "disable_oauth": True}
    unused = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account | unused))
    return f"gs://{BUCKET}/{re.sub('[^a-z0-9_]', '-', request.node.name)}"
