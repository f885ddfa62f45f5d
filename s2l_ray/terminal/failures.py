"""What the command line says when something fails, and the status it then exits with.

In: an exception. Out: one message with its remedy on standard error, a traceback only where it was asked for.
"""

import errno
import traceback

from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.terminal.console import messages

FAILED, WRONG, INTERRUPTED = 1, 2, 130


class Interrupted(Exception):
    """A run was broken off in an orderly way; the message says where it got to and how it goes on."""


def complain(error: BaseException, debug: bool) -> int:
    """Say what failed, with the notes that were added to it on its way, and give the exit status."""
    console = messages()
    if isinstance(error, KeyboardInterrupt | Interrupted):
        console.print(str(error) or "interrupted", markup=False, soft_wrap=True)
        return INTERRUPTED
    if debug:
        console.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
        console.print(getattr(error, "details", ""), markup=False, soft_wrap=True)
    console.print("[bold red]error:[/] ", end="")
    console.print(message_of(error, debug), markup=False, soft_wrap=True)
    for note in getattr(error, "__notes__", []):
        console.print(note, markup=False, soft_wrap=True, style="dim")
    return WRONG if isinstance(error, ConfigError) else FAILED


def message_of(error: BaseException, debug: bool) -> str:
    """The failure and its remedy in a line or two."""
    from s2l_ray.runtime.failures import is_out_of_memory

    if isinstance(error, S2LError):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory ({error or 'in this process'}); close what else runs here, or lower data.shard_size"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on {error.filename or 'the disk'}; free some and run again"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; check the path and its rights"
    remedy = "" if debug else "; run again with --debug to see where"
    first_line = next(iter(str(error).splitlines()), "no message")
    return f"unexpected {type(error).__name__}: {first_line}{remedy}"
