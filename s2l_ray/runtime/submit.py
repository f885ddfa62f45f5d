"""Submit `s2l run` as a job of a remote Ray cluster, and follow its log, over HTTP.

The job runs on the cluster and outlives the client: a repeated submission finds the running job instead of starting a
second one. A job that ended early resumes from its artifacts when it is submitted again. The authentication token is
read from where Ray reads it; it is sent and never written.
"""

import logging
import os
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.runtime.runtime_env import runtime_env

# The address to which `ray dashboard` and `kubectl port-forward` forward a cluster's dashboard.
ADDRESS = "http://127.0.0.1:8265"
REQUEST_SECONDS = 60.0  # a dead connection looks like a slow one
LOST_SECONDS = 300.0
PENDING_SECONDS = 60.0
POLL_SECONDS = 2.0
# Ray kills a job that has not ended this long after SIGTERM, by default 3 s: a training saves its state meanwhile.
STOP_SECONDS = 90
# The whole log comes with each response: poll long logs less often.
BYTES_PER_SECOND = 200_000
CONNECTION_ERRORS = (requests.RequestException, OSError, RuntimeError)


class _Client(JobSubmissionClient):
    """Ray's client, whose requests have no time limit of their own."""

    def _do_request(self, *arguments: Any, **options: Any) -> requests.Response:
        response: requests.Response = super()._do_request(*arguments, timeout=REQUEST_SECONDS, **options)
        return response


@dataclass(frozen=True)
class Submitted:
    """A job of a cluster. again: it was already running and was not started by this submission."""

    client: JobSubmissionClient
    address: str
    submission_id: str
    entrypoint: str
    again: bool

    def command(self, verb: str) -> str:
        """Ray's command line for this job; verb: `logs --follow`, `status` or `stop`."""
        mode = "RAY_AUTH_MODE=token " if _token() and "RAY_AUTH_MODE" not in os.environ else ""
        return f"{mode}ray job {verb} --address {self.address} {self.submission_id}"


@dataclass(frozen=True)
class Ending:
    """The end of a job. exit_status: of `s2l run`, or 1 if Ray ended the job for the reason in `message`."""

    status: str
    exit_status: int
    message: str


def submit(job: str, config: Config, arguments: Sequence[str] = (), address: str = ADDRESS) -> Submitted:
    """Start `s2l run JOB ARGUMENTS` on the cluster, or find it running there.

    config: of the job, with its overrides. The current folder is uploaded. Raises `ConfigError` for files that would
    not be uploaded and for a refused token, `S2LError` if no cluster answers.
    """
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", JobSubmissionClient.__module__):
        logging.getLogger(name).setLevel(logging.WARNING)  # Ray's client logs the packages that it uploads
    folder = Path.cwd()
    path = os.path.relpath(Path(job).resolve(), folder.resolve())
    environment = runtime_env(folder, Path(path), config)
    environment["env_vars"] = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    entrypoint = shlex.join(["python", "-m", "s2l_ray", "run", path, *arguments])
    with _translated_errors(address):
        client = _client(address)
        for known in client.list_jobs():
            if known.entrypoint == entrypoint and _is_running(known, config):
                return Submitted(client, address, str(known.submission_id), entrypoint, again=True)
        name = f"{config.run}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        client.submit_job(
            entrypoint=entrypoint, submission_id=name, runtime_env=environment, metadata=_metadata(config)
        )
    return Submitted(client, address, name, entrypoint, again=False)


@dataclass(frozen=True)
class JobState:
    """A submission. status, message: of Ray. started, ended: seconds since the epoch, None before."""

    submission_id: str
    status: str
    entrypoint: str
    started: float | None
    ended: float | None
    message: str


def job_states(config: Config, address: str = ADDRESS) -> list[JobState]:
    """The submissions to the cluster with the run and the root of this job, the newest first."""
    with _translated_errors(address):
        known = [_job_state(one) for one in _client(address).list_jobs() if _is_of(one, config)]
    return sorted(known, key=lambda one: one.started or 0.0, reverse=True)


def stop_jobs(config: Config, address: str = ADDRESS) -> list[str]:
    """Send SIGTERM to the running submissions of this job and wait until they have ended. Returns their names."""
    with _translated_errors(address):
        client = _client(address)
        running = [str(one.submission_id) for one in client.list_jobs() if _is_running(one, config)]
        for name in running:
            client.stop_job(name)
        while any(not client.get_job_status(name).is_terminal() for name in running):
            time.sleep(POLL_SECONDS)
    return running


def _metadata(config: Config) -> dict[str, str]:
    return {"s2l_run": config.run, "s2l_root": config.root}


def _is_of(known: JobDetails, config: Config) -> bool:
    return _metadata(config).items() <= (known.metadata or {}).items()


def _is_running(known: JobDetails, config: Config) -> bool:
    return _is_of(known, config) and not known.status.is_terminal()


def _job_state(known: JobDetails) -> JobState:
    started, ended = (None if one is None else one / 1000 for one in (known.start_time, known.end_time))
    message = known.message or ""
    return JobState(str(known.submission_id), str(known.status), known.entrypoint, started, ended, message)


def follow(submitted: Submitted, report: Callable[[str], None]) -> Ending:
    """Report each line of the job's log once, from the first, until the job ends; poll on after lost connections.

    An exception in `report` ends the following and not the job. Raises `S2LError` if the cluster does not answer for
    `LOST_SECONDS` or does not know the job.
    """
    reported, answered, pause = 0, time.monotonic(), POLL_SECONDS
    notice = answered + PENDING_SECONDS
    while True:
        try:
            # The log of a job that has ended is complete.
            details = submitted.client.get_job_info(submitted.submission_id)
            log = submitted.client.get_job_logs(submitted.submission_id)
        except CONNECTION_ERRORS as error:
            _check_patience(submitted, error, time.monotonic() - answered)
        else:
            answered, pause, lines = time.monotonic(), POLL_SECONDS + len(log) / BYTES_PER_SECOND, log.split("\n")
            if not details.status.is_terminal() or not lines[-1]:
                lines.pop()
            for line in lines[reported:]:
                report(line)
            reported = max(reported, len(lines))
            if details.status.is_terminal():
                return _ending(details)
            if details.status == JobStatus.PENDING and answered > notice:
                notice = answered + PENDING_SECONDS
                report(f"{details.status}: {details.message}")
        time.sleep(pause)


def _check_patience(submitted: Submitted, error: Exception, silent_seconds: float) -> None:
    """Raise `S2LError` if it is pointless to reconnect."""
    if "status code 404" in str(error):
        raise S2LError(
            f"{submitted.address}: the cluster has no job {submitted.submission_id}; if it was restarted, submit again "
            "to resume from what is stored"
        ) from error
    if silent_seconds > LOST_SECONDS:
        raise S2LError(
            f"{submitted.address}: no answer for {silent_seconds / 60:.0f} minutes ({error}); the job may still be "
            f"running. When the cluster is reachable again: {submitted.command('logs --follow')}"
        ) from error


def _ending(details: JobDetails) -> Ending:
    if details.status == JobStatus.SUCCEEDED:
        return Ending(str(details.status), 0, "")
    reason = "" if details.driver_exit_code is not None else (details.message or "").strip()
    return Ending(str(details.status), details.driver_exit_code or 1, reason)


def _client(address: str) -> JobSubmissionClient:
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"--address {address}: use the HTTP address of the cluster's dashboard, e.g. {ADDRESS}")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if os.environ.get(name, address) != address:
            raise ConfigError(f"--address {address}: Ray would use {name}={os.environ[name]} instead; unset {name}")
    token = _token()
    return _Client(address, headers={"Authorization": f"Bearer {token}"} if token else None)


def _token() -> str | None:
    """The cluster's token, looked up in the same order as by Ray; None if authentication is off."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if named and not path.is_file():
        raise ConfigError(f"RAY_AUTH_TOKEN_PATH={named}: no such file; write the cluster's token into it")
    return (path.read_text(encoding="utf-8").strip() or None) if path.is_file() else None


@contextmanager
def _translated_errors(address: str) -> Iterator[None]:
    """Raise errors of Ray's client as `S2LError`."""
    try:
        yield
    except AuthenticationError as error:
        problem = "the cluster refuses this token" if _token() else "the cluster requires a token"
        raise ConfigError(
            f"{address}: {problem}; write the cluster's token into ~/.ray/auth_token, or export it as RAY_AUTH_TOKEN "
            "(`ray get-auth-token` on the head prints it), and unset RAY_AUTH_MODE if it is disabled",
            page="docs/cluster.md#existing-ray-cluster",
        ) from error
    except (ConnectionError, requests.RequestException) as error:
        problem = f"no Ray dashboard answers ({type(error).__name__})"
        raise S2LError(f"{address}: {problem}; check the address and the port forwarding") from error
    except RuntimeError as error:
        raise S2LError(f"{address}: {str(error).splitlines()[0]}") from error
