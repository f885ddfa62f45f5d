"""An HTTP proxy on 127.0.0.1 in front of a store, which lets a share of the calls go wrong. Seeded.

In: the store's endpoint, the share of calls, the faults to choose from. Out: an endpoint to use in its place, and how
often each fault was done. The n-th call of a seed meets the same fate whatever it asks for.

  refuse   answer 500 or 503, and the call never reaches the store
  lose     the store does what it was asked, the answer is 500
  cut      half of the answer's body, then the connection ends
  break    half of the request's body reaches the store, then both connections end
  stall    no answer for `stall_seconds`, then the connection ends
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
    """Which share of the calls goes wrong, and how."""

    share: float
    seed: int = 0
    kinds: tuple[str, ...] = KINDS
    stall_seconds: float = 60.0

    def of_call(self, number: int) -> str:
        """The fault of the n-th call; empty for none."""
        rng = random.Random(f"{self.seed}/{number}")
        return rng.choice(self.kinds) if rng.random() < self.share else ""


class FaultProxy(ThreadingHTTPServer):
    """The proxy; `faults` may be exchanged while it runs, `done` counts what it did, "" for calls passed on."""

    daemon_threads = True

    def __init__(self, upstream: str, faults: Faults, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Call)
        place = urlsplit(upstream)
        self.upstream = (place.hostname or "127.0.0.1", place.port or 80)
        self.faults = faults
        self.done: Counter[str] = Counter()
        self._turn = threading.Lock()
        self._calls = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self) -> str:
        """The fate of the call that has just come in."""
        with self._turn:
            fault = self.faults.of_call(self._calls)
            self._calls += 1
            self.done[fault] += 1
        return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that end early are what this is for."""


@contextmanager
def fault_proxy(upstream: str, faults: Faults) -> Iterator[FaultProxy]:
    """A proxy that runs in a thread of its own while the block does."""
    with FaultProxy(upstream, faults) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


class _Call(BaseHTTPRequestHandler):
    """One call. The request is passed on as it came: its signature covers the Host header and the path."""

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
            self._answer(random.Random(len(body)).choice((500, 503)), [], b"")
        elif fault == "stall":
            time.sleep(self.server.faults.stall_seconds)
            self.close_connection = True
        elif fault == "break":
            self._forward(body, until=len(body) // 2)
            self.close_connection = True
        else:
            self._pass_on(body, fault)

    def _pass_on(self, body: bytes, fault: str) -> None:
        answer = self._forward(body, until=len(body))
        assert answer is not None
        status, headers, content = answer
        if fault == "lose":
            self._answer(500, [], b"")
        elif fault == "cut":
            self._answer(status, headers, content, until=len(content) // 2)
            self.close_connection = True
        else:
            self._answer(status, headers, content)

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
        """The store's answer; None where only part of the body was sent."""
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

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, until: int | None = None) -> None:
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
    asked = parser.parse_args()
    faults = Faults(asked.share, asked.seed, stall_seconds=asked.stall_seconds)
    with FaultProxy(asked.upstream, faults, asked.port) as proxy:
        print(proxy.endpoint, flush=True)
        proxy.serve_forever()


if __name__ == "__main__":
    main()
