"""`s2l run` as a job of a Ray cluster that is reached over HTTP.

In: a job file and the address of the cluster's dashboard. Out: the lines of the job's log as they come, and how it
ended. The job belongs to the cluster: whoever follows it may leave and come back, and the same submission finds the job
that is running instead of starting a second one. What it needs to go on after a fault lies in its artefacts, so a job
that ended early is simply submitted again. The token is looked for where Ray looks for it; it is sent, never written.
"""

import asyncio
import logging
import os
import secrets
import shlex
import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.runtime.runtime_env import working_folder

ADDRESS = "http://127.0.0.1:8265"
"""Where `ray dashboard` and `kubectl port-forward` bring a cluster's dashboard."""
SILENT_SECONDS = 60.0
"""After so long without a line the connection is made anew, since a dead one is silent too."""
LOST_SECONDS = 300.0
AGAIN_SECONDS = 2.0
FAULTS = (aiohttp.ClientError, requests.RequestException, OSError, RuntimeError)
"""What a lost connection raises, in the client's requests and in its stream of lines."""


@dataclass(frozen=True)
class Submitted:
    """A job of a cluster. `again`: it was running already, and is followed instead of started."""

    client: JobSubmissionClient
    address: str
    submission_id: str
    entrypoint: str
    again: bool

    def command(self, verb: str) -> str:
        """Ray's own command for it: `logs --follow`, `status` or `stop`."""
        mode = "RAY_AUTH_MODE=token " if _token() and "RAY_AUTH_MODE" not in os.environ else ""
        return f"{mode}ray job {verb} --address {self.address} {self.submission_id}"


@dataclass(frozen=True)
class Ending:
    """How a job ended. `exit_status` is that of `s2l run`, or 1 where Ray ended the job, and `message` says why."""

    status: str
    exit_status: int
    message: str


def submit(job: str, config: Config, arguments: Sequence[str] = (), address: str = ADDRESS) -> Submitted:
    """Start `s2l run JOB ARGUMENTS` on the cluster, or find it running there.

    `config` is the job's, with its overrides. The folder one stands in travels. Raises `ConfigError` for what would not
    arrive and where the cluster refuses the token, `S2LError` where no cluster answers.
    """
    _quiet_client()
    here = Path.cwd()
    there = os.path.relpath(Path(job).resolve(), here.resolve())
    environment = working_folder(here, Path(there), config)
    entrypoint = shlex.join(["python", "-m", "s2l_ray", "run", there, *arguments])
    marks = {"s2l_run": config.run, "s2l_root": config.root}
    with _explained(address):
        client = _client(address)
        for known in client.list_jobs():
            same = known.entrypoint == entrypoint and marks.items() <= (known.metadata or {}).items()
            if same and not known.status.is_terminal():
                return Submitted(client, address, str(known.submission_id), entrypoint, again=True)
        name = f"{config.run}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        client.submit_job(entrypoint=entrypoint, submission_id=name, runtime_env=environment, metadata=marks)
    return Submitted(client, address, name, entrypoint, again=False)


def follow(submitted: Submitted) -> Generator[str, None, Ending]:
    """The job's log from its first line to its end. A lost connection is made anew, and no line comes twice.

    To close the generator leaves the job alone. Raises `S2LError` where the cluster does not answer for `LOST_SECONDS`,
    or does not know the job.
    """
    shown, heard = 0, time.monotonic()
    while True:
        try:
            with closing(_lines(submitted, shown)) as lines:
                for line in lines:
                    shown, heard = shown + len(line), time.monotonic()
                    yield line.removesuffix("\n")
            details = submitted.client.get_job_info(submitted.submission_id)
            if details.status.is_terminal():
                return _ending(details)
            heard = time.monotonic()
            if details.status == JobStatus.PENDING:
                yield f"{details.status}: {details.message}"
        except FAULTS as error:
            _give_up_or_go_on(submitted, error, time.monotonic() - heard)
        time.sleep(AGAIN_SECONDS)


def _lines(submitted: Submitted, skip: int) -> Generator[str, None, None]:
    """Whole lines of the log after its first `skip` characters, until it ends or falls silent."""
    stream = submitted.client.tail_job_logs(submitted.submission_id)
    rest = ""
    with asyncio.Runner() as runner:  # on its way out it cancels what is pending and closes the connection
        while (text := runner.run(_next(stream))) is not None:
            skip, text = max(0, skip - len(text)), text[skip:]
            *lines, rest = (rest + text).split("\n")
            yield from (f"{line}\n" for line in lines)
    if rest:
        yield rest


async def _next(stream: AsyncIterator[str]) -> str | None:
    try:
        async with asyncio.timeout(SILENT_SECONDS):
            return await anext(stream, None)
    except TimeoutError:
        return None


def _give_up_or_go_on(submitted: Submitted, error: Exception, silent_seconds: float) -> None:
    if "status code 404" in str(error):
        raise S2LError(
            f"{submitted.address}: knows no job {submitted.submission_id}; if the cluster was started anew, submit "
            "again: what was finished stays"
        ) from error
    if silent_seconds > LOST_SECONDS:
        raise S2LError(
            f"{submitted.address}: no answer for {silent_seconds / 60:.0f} minutes ({error}); the job may well go on. "
            f"Once the cluster can be reached again: {submitted.command('logs --follow')}"
        ) from error


def _ending(details: JobDetails) -> Ending:
    if details.status == JobStatus.SUCCEEDED:
        return Ending(str(details.status), 0, "")
    said = "" if details.driver_exit_code is not None else (details.message or "").strip()
    return Ending(str(details.status), details.driver_exit_code or 1, said)


def _quiet_client() -> None:
    """Ray's client tells of every package it sends, on the terminal."""
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", JobSubmissionClient.__module__):
        logging.getLogger(name).setLevel(logging.WARNING)


def _client(address: str) -> JobSubmissionClient:
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"--address {address}: write the address of the cluster's dashboard, e.g. {ADDRESS}")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if os.environ.get(name, address) != address:
            raise ConfigError(f"--address {address}: Ray puts {name}={os.environ[name]} above it; unset {name}")
    token = _token()
    return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)


def _token() -> str | None:
    """The cluster's token, from where Ray looks for it and in its order; none where authentication is off."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    place = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if named and not place.is_file():
        raise ConfigError(f"RAY_AUTH_TOKEN_PATH={named}: there is no such file; put the cluster's token into it")
    return (place.read_text(encoding="utf-8").strip() or None) if place.is_file() else None


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Failures of Ray's client as ours."""
    try:
        yield
    except AuthenticationError as error:
        fault = "refuses this token" if _token() else "asks for a token"
        raise ConfigError(
            f"{address}: {fault}; write the cluster's token into ~/.ray/auth_token, or export it as RAY_AUTH_TOKEN "
            "(`ray get-auth-token` on the head prints it), and unset RAY_AUTH_MODE if it says disabled"
        ) from error
    except (ConnectionError, requests.RequestException) as error:
        fault = f"no Ray dashboard answers there ({type(error).__name__})"
        raise S2LError(f"{address}: {fault}; check the address, and whether its port is forwarded") from error
    except RuntimeError as error:
        raise S2LError(f"{address}: {str(error).splitlines()[0]}") from error
