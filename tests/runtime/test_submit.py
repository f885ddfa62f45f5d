"""Jobs on a local cluster with token authentication, over HTTP as on a remote one."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.runtime.runtime_env import runtime_env, uploaded_files
from s2l_ray.runtime.submit import Ending, Submitted, follow, submit
from tests.support.jobs import small_job

pytestmark = pytest.mark.timeout(1200)  # a job here waits for others where many tests run at once
CHECKOUT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
RANDOM = ("run=random-subset", "select.method=random")  # needs no proxy: the shortest run that builds a subset


@dataclass(frozen=True)
class Head:
    address: str
    token: str


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """`ray start --head` with ports, a folder and a token of its own, ended by its process group and no other."""
    port, dashboard, agent, client = free_ports(4)
    one = Head(f"http://127.0.0.1:{dashboard}", secrets.token_hex(32))
    folder = Path(tempfile.mkdtemp(prefix="s2l"))  # short: Ray puts sockets into it, whose names have a limit
    arguments = (
        f"start --head --block --node-ip-address=127.0.0.1 --port={port} --dashboard-host=127.0.0.1 "
        f"--dashboard-port={dashboard} --dashboard-agent-listen-port={agent} --ray-client-server-port={client} "
        f"--min-worker-port=0 --max-worker-port=0 --num-cpus=4 --object-store-memory=100000000 --temp-dir={folder}"
    )
    try:
        for _ in range(3):  # Ray gives a node 30 seconds to register, which may be short where many tests run at once
            process = start([RAY, *arguments.split()], environment(one), folder)
            if process.poll() is None:
                break
        assert process.poll() is None, (folder / "start.log").read_text()[-2000:]
        yield one
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def start(command: list[str], variables: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """The process of a head once it is up or has ended."""
    log = folder / "start.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=variables, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    while process.poll() is None and "Ray runtime started" not in log.read_text():
        time.sleep(0.2)
    if process.poll() is not None:
        end(process)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment(head: Head) -> dict[str, str]:
    """The environment of a node: with the token, without the path of this checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token, "RAY_USAGE_STATS_ENABLED": "0"}
    patient = {"RAY_health_check_timeout_ms": "60000"}  # a machine that tests keep busy is not a dead one
    return kept | ray | patient | {"PATH": path}


class Tunnel:
    """A forwarded port, as by ssh, whose connections can be cut."""

    def __init__(self, target: str) -> None:
        self._target = ("127.0.0.1", int(target.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = self._listener.accept()[0], socket.create_connection(self._target)
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small job in the current folder, with artifacts on the local disk."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # which may hold a token of the developer
    return small_job(tmp_path, rows=200)


def submit_random(head: Head) -> Submitted:
    arguments = [argument for change in RANDOM for argument in ("--set", change)]
    return submit("job.yaml", load_config("job.yaml", RANDOM), arguments, head.address)


def follow_to_end(submitted: Submitted) -> tuple[list[str], Ending]:
    lines: list[str] = []
    ending = follow(submitted, lines.append)
    return lines, ending


def leave(line: str) -> None:
    raise BrokenPipeError


@pytest.mark.slow
def test_a_job_outlives_its_client_and_is_found_again(head: Head, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    first = submit_random(head)
    assert first.submission_id.startswith("random-subset-")
    with pytest.raises(BrokenPipeError):
        follow(first, leave)
    again = submit_random(head)
    assert (again.submission_id, again.again) == (first.submission_id, True)
    lines, ending = follow_to_end(again)
    assert ending == Ending("SUCCEEDED", 0, "")
    assert len(list((job.parent / "artifacts" / "subset").glob("*/manifest.json"))) == 1
    assert lines == first.client.get_job_logs(first.submission_id).splitlines()
    assert not any(head.token in line for line in lines)

    after = submit_random(head)  # a new job, which finds every artifact complete
    assert not after.again and after.submission_id != first.submission_id
    lines, ending = follow_to_end(after)
    assert ending.exit_status == 0
    assert lines and not any("built in" in line for line in lines)


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running_and_stop_ends_it(head: Head, job: Path) -> None:
    changes = ["--set", "run=left", "--set", "proxy.epochs=500"]  # runs for many minutes
    command = [sys.executable, "-m", "s2l_ray", "submit", "job.yaml", *changes, "--address", head.address]
    with_code = environment(head) | {"PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen(command, env=with_code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    [name] = {part for part in messages.split() if part.startswith("left-")}
    assert f"submit job.yaml {' '.join(changes)} --address {head.address}" in messages
    [stop] = [line.split(":", 1)[1].strip() for line in messages.splitlines() if "stop it" in line]
    assert stop.endswith(f"stop job.yaml --set run=left --set proxy.epochs=500 --address {head.address}")
    arguments = stop[stop.index("stop") + len("stop") :].split()

    def s2l(verb: str) -> str:
        command = [sys.executable, "-m", "s2l_ray", verb, *arguments]
        done = subprocess.run(command, env=with_code, capture_output=True, text=True, timeout=300, check=True)
        return done.stdout + done.stderr

    assert f"{name}  running" in s2l("status")
    assert f"{name} stopped" in s2l("stop")
    assert f"{name}  stopped" in s2l("status")
    assert "no submission of this job is running" in s2l("stop")
    ended = subprocess.run(command, env=with_code | {"RAY_AUTH_TOKEN": "0" * 64}, capture_output=True, text=True)
    assert ended.returncode == 2 and "refuses this token" in ended.stderr


@pytest.mark.slow
def test_the_readmes_ray_job_submit_builds_a_subset(head: Head, job: Path) -> None:
    shutil.copytree(CHECKOUT / "s2l_ray", job.parent / "s2l_ray", ignore=shutil.ignore_patterns("__pycache__"))
    readme = (CHECKOUT / "README.md").read_text().splitlines()
    [command] = [line for line in readme if line.startswith("ray job submit ")]
    there = environment(head) | {"RAY_API_SERVER_ADDRESS": head.address}
    done = subprocess.run(command, shell=True, env=there, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(list((job.parent / "artifacts" / "subset").glob("*/manifest.json"))) == 1


@pytest.mark.slow
def test_a_broken_connection_loses_no_line_and_no_exit_status(
    head: Head, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    tunnel = Tunnel(head.address)
    with closing(tunnel):
        submitted = submit("job.yaml", load_config("job.yaml"), ["--to", "nothing"], tunnel.address)
        lines: list[str] = []

        def cut_after_first(line: str) -> None:
            lines.append(line)
            if len(lines) == 1:
                tunnel.cut()

        ending = follow(submitted, cut_after_first)
        assert lines == submitted.client.get_job_logs(submitted.submission_id).splitlines()
    assert any("nothing" in line for line in lines)
    assert (ending.status, ending.exit_status) == ("FAILED", 2)


@pytest.mark.slow
def test_the_token_is_read_from_the_places_of_ray(head: Head, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def accepted() -> bool:
        try:
            follow_to_end(submit("job.yaml", load_config("job.yaml"), ["--to", "nothing"], head.address))
        except ConfigError as error:
            assert "token" in str(error) and head.token not in str(error)
            return False
        return True

    assert not accepted()
    (job.parent / "home" / ".ray").mkdir(parents=True)
    (job.parent / "home" / ".ray" / "auth_token").write_text(f"{head.token}\n")
    assert accepted()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert not accepted()
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(job.parent / "nowhere"))
    assert not accepted()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert not accepted()


def test_an_address_without_a_cluster_is_named(job: Path) -> None:
    [port] = free_ports(1)
    with pytest.raises(S2LError, match=f"127.0.0.1:{port}"):
        submit("job.yaml", load_config("job.yaml"), address=f"http://127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="http://"):
        submit("job.yaml", load_config("job.yaml"), address="ray://127.0.0.1:10001")


def test_a_conflicting_address_in_the_environment_is_refused(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://somewhere:8265")
    with pytest.raises(ConfigError, match="unset RAY_ADDRESS"):
        submit("job.yaml", load_config("job.yaml"), address="http://127.0.0.1:8265")


def config_of(job: Path, *changes: str) -> Config:
    return load_config(job, changes)


def test_the_package_is_uploaded_for_a_job_outside_the_checkout(job: Path) -> None:
    sent = runtime_env(job.parent, Path("job.yaml"), config_of(job))
    assert [Path(module).name for module in sent["py_modules"]] == ["s2l_ray"]
    assert "py_modules" not in runtime_env(CHECKOUT, Path("jobs/real.yaml"), config_of(job))


def test_ignored_files_are_not_uploaded(job: Path) -> None:
    folder = job.parent
    for name in (".git/objects/pack", ".venv/lib/big.so", "runs/store/shard", "kept/rows.jsonl", "left/rows.jsonl"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("text")
    (folder / ".rayignore").write_text("left\n")
    names = {name.partition("/")[0] for name in uploaded_files(folder)}
    assert names == {"job.yaml", "kept", ".rayignore"}  # the job's rows are in demo/, which is excluded


def test_an_upload_of_the_checkout_is_small() -> None:
    files = uploaded_files(CHECKOUT)
    assert "s2l_ray/pipeline/run.py" in files and "jobs/mathinstruct.yaml" in files
    assert not any(name.startswith(("tests/", ".git/", "bench/")) for name in files)
    assert sum(files.values()) < 2 << 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["root=artifacts"], "root: artifacts"),
        (["root=~/artifacts"], "root: ~/artifacts"),
        (["data.root=../rows"], "rows/rows"),
        (["data.root=demo"], "demo/rows"),  # exists, and is excluded
        (["data.root=ignored"], "ignored/rows"),
        (["data.tokenizer=runs"], "runs"),
    ],
)
def test_files_that_would_not_be_uploaded_are_refused(job: Path, changes: list[str], message: str) -> None:
    for name in ("ignored/rows/rows.jsonl", "runs/tokenizer.json"):
        (job.parent / name).parent.mkdir(parents=True)
        (job.parent / name).write_text("text")
    (job.parent / ".gitignore").write_text("ignored/\n")
    with pytest.raises(ConfigError, match=message):
        runtime_env(job.parent, Path("job.yaml"), config_of(job, *changes))


def test_a_job_outside_the_folder_is_refused(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job.parent / "below").mkdir()
    monkeypatch.chdir(job.parent / "below")
    with pytest.raises(ConfigError, match=r"job\.yaml"):
        submit("../job.yaml", load_config("../job.yaml"))


def test_a_large_folder_is_refused_and_its_largest_parts_are_named(job: Path) -> None:
    for name, mebibytes in (("small/rows", 1), ("large/rows", 45), ("larger/rows", 60)):
        (job.parent / name).parent.mkdir()
        with (job.parent / name).open("wb") as sparse:
            sparse.truncate(mebibytes << 20)
    with pytest.raises(ConfigError, match=r"106 MiB.* larger 60 MiB"):
        runtime_env(job.parent, Path("job.yaml"), config_of(job))
    (job.parent / ".rayignore").write_text("larger\n")
    runtime_env(job.parent, Path("job.yaml"), config_of(job))
