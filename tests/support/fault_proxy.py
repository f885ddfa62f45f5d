"""A seeded HTTP proxy on 127.0.0.1 that injects faults into a share of the requests to a store.

The fault of the n-th request depends on the seed alone, not on the request.

  refuse   answer 500 or 503 without forwarding the request
  lose     forward the request, discard the response, answer 500
  cut      send half of the response body, then close the connection
  break    forward half of the request body, then close both connections
  stall    send nothing for `stall_seconds`, then close the connection
"""

import argparse
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KINDS = ("refuse", "lose", "cut", "break", "stall")
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True)
class Faults:
    """Share of the requests that fail, and the kinds of faults."""

    share: float
    seed: int = 0
    kinds: tuple[str, ...] = KINDS
    stall_seconds: float = 60.0

    def of_request(self, number: int) -> str:
        """Fault of the n-th request; empty for none."""
        rng = random.Random(f"{self.seed}/{number}")
        return rng.choice(self.kinds) if rng.random() < self.share else ""


class FaultProxy(ThreadingHTTPServer):
    """The proxy. `faults` may be replaced while it runs; `counts`: requests by fault, "" for those without."""

    daemon_threads = True

    def __init__(self, upstream: str, faults: Faults, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._requests = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self) -> str:
        """Fault of the request that has just arrived."""
        with self._counting:
            fault = self.faults.of_request(self._requests)
            self._requests += 1
            self.counts[fault] += 1
        return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections that end early: the faults cause them."""


@contextmanager
def fault_proxy(upstream: str, faults: Faults) -> Iterator[FaultProxy]:
    """Run a proxy in a thread while the block runs."""
    with FaultProxy(upstream, faults) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


class _Handler(BaseHTTPRequestHandler):
    """Handle one request. It is forwarded unchanged: its signature covers the Host header and the path."""

    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self._body()
        fault = self.server.next_fault()
        if fault == "refuse":
            self._respond(random.Random(len(body)).choice((500, 503)), [], b"")
        elif fault == "stall":
            time.sleep(self.server.faults.stall_seconds)
            self.close_connection = True
        elif fault == "break":
            self._forward(body, until=len(body) // 2)
            self.close_connection = True
        else:
            self._forward_all(body, fault)

    def _forward_all(self, body: bytes, fault: str) -> None:
        response = self._forward(body, until=len(body))
        assert response is not None
        status, headers, content = response
        if fault == "lose":
            self._respond(500, [], b"")
        elif fault == "cut":
            self._respond(status, headers, content, until=len(content) // 2)
            self.close_connection = True
        else:
            self._respond(status, headers, content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, body: bytes, until: int) -> tuple[int, list[tuple[str, str]], bytes] | None:
        """Status, headers and body of the store's response; None if only part of the request body was sent."""
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {*HOP_BY_HOP, "content-length", "expect"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:until])
            if until < len(body):
                return None
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _respond(self, status: int, headers: list[tuple[str, str]], content: bytes, until: int | None = None) -> None:
        self.send_response_only(status)
        length = dict((name.lower(), value) for name, value in headers).get("content-length", str(len(content)))
        for name, value in headers:
            if name.lower() not in {*HOP_BY_HOP, "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:until])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", help="endpoint of the store, e.g. http://127.0.0.1:9103")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stall-seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    faults = Faults(arguments.share, arguments.seed, stall_seconds=arguments.stall_seconds)
    with FaultProxy(arguments.upstream, faults, arguments.port) as proxy:
        print(proxy.endpoint, flush=True)
        proxy.serve_forever()


if __name__ == "__main__":
    main()
