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
            self._console.print("stopping: work in flight is finished or dropped (once more to stop at once)")
            raise KeyboardInterrupt
        if now - self._first > ONE_KEYSTROKE:
            self._console.show_cursor(True)
            os._exit(INTERRUPTED)
