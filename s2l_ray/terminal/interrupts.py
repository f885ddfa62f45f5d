"""Ctrl-C and SIGTERM as one thing: an orderly end.

In: a console to say so on. Out: a `KeyboardInterrupt` for the first signal, so that locks are given back and Ray is
shut down. A second one, after a moment, ends the process at once: the next start takes the dead process's lock over.
"""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console

INTERRUPTED = 130
STOPPING = "stopping: work in flight is finished or dropped (once more to stop at once)\n"
CLEAR_LINE, SHOW_CURSOR = "\r\x1b[2K", "\x1b[?25h"
ONE_KEYSTROKE = 1.0
"""Signals within so many seconds are one: a terminal, a shell and make may each send their own."""


class Interrupts:
    """The handlers, in force inside a `with` block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._first: float | None = None
        self._before: dict[int, Callable[..., Any] | int | None] = {}

    @property
    def happened(self) -> bool:
        """Whether a signal came."""
        return self._first is not None

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Set the handlers, anew where a library has put its own in their place."""
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._write(CLEAR_LINE, STOPPING)
            raise KeyboardInterrupt
        if now - self._first > ONE_KEYSTROKE:
            self._write(SHOW_CURSOR, "")
            os._exit(INTERRUPTED)

    def _write(self, control: str, text: str) -> None:
        """Past the console, which may be in the middle of a line when a signal comes."""
        if self._console.is_terminal:
            text = control + text
        os.write(self._console.file.fileno(), text.encode())
