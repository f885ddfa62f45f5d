"""Signal handlers: Ctrl-C and SIGTERM end a run in order.

The first signal raises `KeyboardInterrupt`, so that locks are released and Ray is shut down. A second one ends the
process at once; the next run takes over the lock of the dead process.
"""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from rich.console import Console

from s2l_ray.terminal.failures import INTERRUPTED

STOPPING = "stopping after the current units (press again to stop at once)\n"
CLEAR_LINE, SHOW_CURSOR = "\r\x1b[2K", "\x1b[?25h"
# signals within this many seconds count as one, since a terminal, a shell and make may each send their own
SAME_SIGNAL_SECONDS = 1.0


class Interrupts:
    """The handlers, installed inside a `with` block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._first: float | None = None
        self._before: dict[int, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Install the handlers, also after a library has replaced them."""
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._write(CLEAR_LINE, STOPPING)
            raise KeyboardInterrupt
        if now - self._first > SAME_SIGNAL_SECONDS:
            self._write(SHOW_CURSOR, "")
            os._exit(INTERRUPTED)

    def _write(self, control: str, text: str) -> None:
        """Bypass the console, which may be in the middle of a line when the signal arrives."""
        if self._console.is_terminal:
            text = control + text
        os.write(self._console.file.fileno(), text.encode())
