"""A process that hangs behind Python's end, in a C library's own, is ended all the same."""

import signal
import subprocess
import sys
import time

HANGS = """
import ctypes, sys
from s2l_ray.runtime.exit_watchdog import leave_for_certain

libc = ctypes.CDLL(None)
if sys.argv[1] == "hangs":
    libc.__cxa_atexit(libc.pause, None, None)
leave_for_certain(1)
print("ended")
"""


def test_a_process_that_hangs_at_its_end_is_ended() -> None:
    for case, status in (("hangs", -signal.SIGALRM), ("leaves", 0)):
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-c", HANGS, case], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout) == (status, "ended\n"), done.stderr
        assert time.monotonic() - begun < 20
