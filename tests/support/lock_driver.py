"""A process that takes a lock: `python -m tests.support.lock_driver FOLDER BEAT_SECONDS STALE_SECONDS MODE`.

hold   acquire, print "held", check until the lock is lost, print "lost"
race   print "ready", wait for a line, acquire, print "won" or "refused", wait for a line
"""

import sys
import time

from s2l_ray.artifacts import lock
from s2l_ray.errors import LockedError


def hold(own: lock.Lock) -> None:
    own.acquire()
    print("held", flush=True)
    try:
        while True:
            own.check()
            time.sleep(0.05)
    except LockedError:
        print("lost", flush=True)


def race(own: lock.Lock) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        own.acquire()
        print("won", flush=True)
        sys.stdin.readline()
    except LockedError:
        print("refused", flush=True)


if __name__ == "__main__":
    folder, beat, stale, mode = sys.argv[1:]
    lock.BEAT_SECONDS, lock.STALE_SECONDS = float(beat), float(stale)
    {"hold": hold, "race": race}[mode](lock.Lock(folder, "first"))
