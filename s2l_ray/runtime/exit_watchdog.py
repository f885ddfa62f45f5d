"""A worker process that is told to end does end.

In: nothing. Out: an alarm of the kernel's. Ray 2.60 can deadlock behind Python's own end, while it destroys what the
process had of it (`~CoreWorkerProcessImpl`, seen once in some thousand actors): such a process stays for ever, with
the memory of its GPU, and nobody looks for it any more.
"""

import atexit
import signal

SECONDS = 60


def leave_for_certain(seconds: int = SECONDS) -> None:
    """Have the kernel end this process so many seconds after Python has, should it still be there."""
    atexit.register(signal.alarm, seconds)
