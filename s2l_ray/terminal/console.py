"""The terminal: where answers and messages go, and where Ray's noise goes instead.

Answers (tables, summaries, JSON) are written to standard output; progress, notes and errors to standard error. While
a job runs, both file descriptors of the process point to a log file, which the C++ parts of Ray and all child
processes inherit; what is meant for people is written to a duplicate of the terminal.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console

from s2l_ray import storage

WIDE = 160
"""Columns where no terminal says how many there are: nothing is cut in a file or a pipe."""


def answers() -> Console:
    """The console of what a command was asked for."""
    return _console(sys.stdout)


def messages() -> Console:
    """The console of everything else."""
    return _console(sys.stderr)


def program() -> str:
    """How this program was called, for commands that are to be typed again."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m s2l_ray"
    return "s2l" if shutil.which("s2l") else os.path.relpath(called)


def _console(stream: IO[str]) -> Console:
    width = None  # rich asks the terminal, each time anew
    if not stream.isatty():
        width = None if "COLUMNS" in os.environ else WIDE
    elif not os.isatty(0):
        width = os.get_terminal_size(stream.fileno()).columns  # rich would ask descriptors that lead elsewhere
    return Console(file=stream, width=width, highlight=False, emoji=False)


@dataclass(frozen=True)
class Log:
    """Where the noise of a run goes; `console` still reaches the terminal."""

    path: Path
    console: Console


@contextlib.contextmanager
def noise_into_log(root: str, run: str) -> Iterator[Log]:
    """Point standard output and standard error at a log file for as long as the block runs.

    The file lies in `{root}/logs/`, or in the folder for temporary files where the root is no local one or cannot be
    written. An empty one is removed.
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
    name = f"{run}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    if storage.is_local(root):
        with contextlib.suppress(OSError):
            folder = storage.local_path(root) / "logs"
            folder.mkdir(parents=True, exist_ok=True)
            return folder / name
    return Path(tempfile.gettempdir()) / f"s2l-{name}"
