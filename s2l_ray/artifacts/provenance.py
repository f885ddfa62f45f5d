"""Provenance of an artifact: command, host, commit and library versions.

No environment variable is read, so that no secret can end up in a manifest.
"""

import platform
import socket
import subprocess
import sys
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("s2l_ray", "ray", "torch", "transformers", "tokenizers", "sentence-transformers", "pyarrow", "numpy")


@lru_cache(maxsize=1)
def libraries() -> dict[str, str]:
    """Versions of the libraries that can change the last bits of a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def provenance() -> dict[str, str | None]:
    """Command, host, UTC time and commit of this process."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "host": socket.gethostname(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
    }


def _commit() -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
