"""Command lines in messages, such as the one that resumes a run."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path


def invocation() -> str:
    """The name by which this program was called."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m s2l_ray"
    return "s2l" if shutil.which("s2l") else os.path.relpath(called)


def command_line(
    verb: str, job: str, overrides: Iterable[str] | None, to: str = "subset", allow_version_change: bool = False
) -> str:
    return f"{invocation()} {shlex.join([verb, job, *job_options(overrides, to, allow_version_change)])}"


def job_options(overrides: Iterable[str] | None, to: str, allow_version_change: bool = False) -> list[str]:
    """The options `--to`, `--set` and `--allow-version-change`, without defaults."""
    return [
        *(["--to", to] if to != "subset" else []),
        *(text for one in overrides or () for text in ("--set", one)),
        *(["--allow-version-change"] if allow_version_change else []),
    ]
