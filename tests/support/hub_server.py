"""A small server with the part of the Hugging Face hub's interface that huggingface_hub and datasets use.

Repositories are kept in memory: commits, branches, files, whether a token is needed. The server lists, sends and counts
files, and refuses requests as the hub does: 404 for what does not exist, 401 for a gated repository, 429 with
Retry-After above the rate limit.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_test"

Files = Mapping[str, bytes]


@dataclass
class Repository:
    """Files by commit, and commits by branch or tag."""

    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)


@dataclass
class Hub:
    """The repositories of a running server, by `models/ID` or `datasets/ID`, and a log of requests as METHOD PATH.

    limited: requests that are still to be answered with 429.
    """

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    limited: int = 0

    def push(self, name: str, files: Files, branch: str = "main", gated: bool = False) -> str:
        """Commit the files, as all of the repository, to a branch. Returns the commit."""
        repository = self.repositories.setdefault(name, Repository())
        repository.gated = gated
        parent = repository.branches.get(branch, "")
        content = [[path, hashlib.sha256(data).hexdigest()] for path, data in sorted(files.items())]
        commit = hashlib.sha1(json.dumps([name, parent, content]).encode()).hexdigest()
        repository.commits[commit] = files
        repository.branches[branch] = commit
        return commit

    def push_folder(self, name: str, folder: Path, branch: str = "main", gated: bool = False) -> str:
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.push(name, files, branch, gated)

    def downloads(self, path: str) -> int:
        """How often a file was sent."""
        return sum(request.startswith("GET") and request.endswith(f"/{path}") for request in self.requests)


@contextmanager
def running_hub(port: int) -> Iterator[Hub]:
    """An empty hub at a port of this machine, while the block runs."""
    hub = Hub(f"http://127.0.0.1:{port}")
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (HubHandler,), {"hub": hub}))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class HubHandler(BaseHTTPRequestHandler):
    """One request. Paths: /api/KINDs/ID[/revision|tree|paths-info|auth-check ...] and [/datasets]/ID/resolve/..."""

    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self._answer(parse_qs(body).get("paths", []))

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, paths: list[str] | None = None) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {unquote(url.path)}")
        if self.hub.limited > 0:
            self.hub.limited -= 1
            self._send(429, {"error": "too many requests"}, {"Retry-After": "0"})
            return
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        api = parts[0] == "api"
        parts = parts[1:] if api else parts
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        name, verb, rest = f"{kind}/{'/'.join(parts[:2])}", parts[2] if len(parts) > 2 else "", parts[3:]
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        if repository.gated and verb not in ("", "revision") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": f"Access to {name} is restricted"}, {"X-Error-Code": "GatedRepo"})
            return
        if verb == "auth-check":
            self._send(200, {})
            return
        revision = rest.pop(0) if rest else "main"
        commit = revision if revision in repository.commits else repository.branches.get(revision)
        if commit is None:
            self._send(404, {"error": "Invalid revision"}, {"X-Error-Code": "RevisionNotFound"})
            return
        files, path = repository.commits[commit], "/".join(rest)
        if verb in ("", "revision"):
            info = {"id": name.partition("/")[2], "sha": commit, "gated": "auto" if repository.gated else False}
            self._send(200, info | {"siblings": [{"rfilename": path} for path in files]})
        elif verb == "tree":
            recursive = parse_qs(url.query).get("recursive", ["False"])[0].lower() in ("1", "true")
            self._send_entries(_entries(files, path, recursive), commit)
        elif verb == "paths-info":
            self._send_entries([entry for entry in _entries(files, "", True) if entry["path"] in (paths or [])], commit)
        else:
            self._send_file(commit, files, path)

    def _send_entries(self, entries: list[dict[str, object]], commit: str) -> None:
        if entries:
            self._send(200, entries)
        else:
            self._send(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})

    def _send_file(self, commit: str, files: Files, path: str) -> None:
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            self._send(404, {"error": "Entry not found"}, {**headers, "X-Error-Code": "EntryNotFound"})
            return
        self._send(200, files[path], {**headers, "ETag": f'"{hashlib.sha1(files[path]).hexdigest()}"'})

    def _send(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entries(files: Files, folder: str, recursive: bool) -> list[dict[str, object]]:
    """Files below a folder, and its folders, as the hub lists them."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, object]] = {}
    for path, data in files.items():
        below = path.removeprefix(prefix)
        if not path.startswith(prefix):
            continue
        if "/" in below:
            name = prefix + below.partition("/")[0]
            entries[name] = {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()}
        if "/" not in below or recursive:
            oid = hashlib.sha1(data).hexdigest()
            entries[path] = {"type": "file", "path": path, "size": len(data), "oid": oid}
    return list(entries.values())
