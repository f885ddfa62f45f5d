"""A process that hangs during exit is killed; progress reports need no Ray."""

import signal
import subprocess
import sys
import time

HANGS = """
import ctypes, sys
from s2l_ray.runtime.worker_process import arm_exit_watchdog

libc = ctypes.CDLL(None)
if sys.argv[1] == "hangs":
    libc.__cxa_atexit(libc.pause, None, None)
arm_exit_watchdog(1)
print("ended")
"""
TRACKS = """
import sys
from s2l_ray.runtime.worker_process import report_progress, track

report_progress(1, 4, "passes")
print(list(track("ab", "shards read")), "ray" in sys.modules)
"""


def test_a_process_that_hangs_during_exit_is_killed() -> None:
    for case, status in (("hangs", -signal.SIGALRM), ("leaves", 0)):
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", HANGS, case], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout) == (status, "ended\n"), done.stderr
        assert time.monotonic() - started < 20


def test_without_a_monitor_progress_is_ignored_and_ray_not_imported() -> None:
    printed = subprocess.run([sys.executable, "-c", TRACKS], capture_output=True, text=True, timeout=60).stdout
    assert printed == "['a', 'b'] False\n"
