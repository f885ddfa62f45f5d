"""Consoles for results and messages, and the redirection of Ray's output into a log file.

Results (tables, summaries, JSON) go to stdout; progress, notes and errors to stderr. While a job runs, both file
descriptors point to a log file, which the C++ parts of Ray and all child processes inherit; progress is written to a
duplicate of the terminal.
"""

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console, RenderableType

# columns in files and pipes, where no terminal defines a width and nothing should be cut
WIDE = 500


def stdout_console() -> Console:
    return _console(sys.stdout)


def stderr_console() -> Console:
    return _console(sys.stderr)


def print_message(text: str) -> None:
    """Print to stderr; long lines are left to the terminal, so that commands can be copied."""
    stderr_console().print(text, markup=False, soft_wrap=True)


def print_result(as_json: bool, values: Mapping[str, object], view: RenderableType) -> None:
    if as_json:
        print_json(values)
    else:
        stdout_console().print(view)


def print_json(values: Mapping[str, object]) -> None:
    """Print values and records to stdout, with the version of the format unless `values` have one of their own."""
    print(json.dumps({"version": 1, **values}, default=dataclasses.asdict, indent=2, ensure_ascii=False))


def _console(stream: IO[str]) -> Console:
    width = None if stream.isatty() else WIDE  # rich asks a terminal each time
    if stream.isatty() and not os.isatty(0):
        width = os.get_terminal_size(stream.fileno()).columns  # rich would ask the redirected descriptors
    return Console(file=stream, width=width, highlight=False, emoji=False)


@dataclass(frozen=True)
class Log:
    """The log file of a run, and a console that still writes to the terminal."""

    path: Path
    console: Console


@contextlib.contextmanager
def redirect_output_to_log(root: str, run: str) -> Iterator[Log]:
    """Redirect stdout and stderr to a log file while the block runs.

    The file is in `{root}/logs/`, or in the folder for temporary files if the root is not a writable local folder. An
    empty log is deleted.
    """
    path = _log_path(root, run)
    sys.stdout.flush()
    sys.stderr.flush()
    terminal, saved = os.dup(2), {number: os.dup(number) for number in (1, 2)}
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for number in saved:
            os.dup2(log, number)
        with open(terminal, "w", encoding="utf-8", errors="replace", buffering=1) as stream:
            yield Log(path, _console(stream))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in saved.items():
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(log)
        if path.stat().st_size == 0:
            path.unlink()


def _log_path(root: str, run: str) -> Path:
    from s2l_ray import storage

    name = f"{run}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    if storage.is_local(root):
        with contextlib.suppress(OSError):
            folder = storage.local_path(root) / "logs"
            folder.mkdir(parents=True, exist_ok=True)
            return folder / name
    return Path(tempfile.gettempdir()) / f"s2l-{name}"
