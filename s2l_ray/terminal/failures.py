"""Error messages of the command line and its exit status. A traceback is printed only with --debug."""

import errno
import functools
import inspect
import traceback
from collections.abc import Callable
from typing import Any

import typer

from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.terminal import arguments as arg
from s2l_ray.terminal.console import stderr_console

FAILED, INVALID, INTERRUPTED = 1, 2, 130


class Interrupted(Exception):
    """A run was interrupted in order; the message contains its position and the command that resumes it."""


def with_error_report(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the option --debug, whose exceptions become one message and an exit status."""

    @functools.wraps(command)
    def guarded(*arguments: Any, debug: bool, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(_report(error, debug)) from None

    signature = inspect.signature(command)
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=arg.Debug)
    parameters = [*signature.parameters.values(), debug]
    guarded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return guarded


def _report(error: BaseException, debug: bool) -> int:
    """Print an error with its notes and return the exit status."""
    console = stderr_console()
    if isinstance(error, KeyboardInterrupt | Interrupted):
        console.print(str(error) or "interrupted", markup=False, soft_wrap=True)
        return INTERRUPTED
    if debug:
        console.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
        console.print(getattr(error, "details", ""), markup=False, soft_wrap=True)
    console.print("[bold red]error:[/] ", end="")
    console.print(message_of(error, debug), markup=False, soft_wrap=True)
    if page := getattr(error, "page", None):
        console.print(f"see {page}", markup=False, soft_wrap=True, style="dim")
    for note in getattr(error, "__notes__", []):
        console.print(note, markup=False, soft_wrap=True, style="dim")
    return INVALID if isinstance(error, ConfigError) else FAILED


def message_of(error: BaseException, debug: bool) -> str:
    """The error with a hint, on a line or two."""
    from s2l_ray.runtime.failures import is_out_of_memory

    if isinstance(error, S2LError):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory ({error or 'in this process'}); close other programs or use a machine with more memory"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on {error.filename or 'the disk'}; free some space and run again"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    hint = "" if debug else "; run again with --debug for a traceback"
    first_line = next(iter(str(error).splitlines()), "no message")
    return f"unexpected {type(error).__name__}: {first_line}{hint}"
