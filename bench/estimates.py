"""Estimated against actual time and memory, after a probe, on an empty root.

    python -m bench.estimates [--rounds 3] [--job jobs/demo.yaml --set data.root=demo ...] [--to subset]

Each round probes the job (or experiment), plans it, and runs it, each as a process of its own. Prints the median of
estimated / actual seconds and memory of every stage, and of the total with the start of Ray. Exits 1 where the median
of a stage of more than 20 s is off by more than 25 %, or that of the total by more than 15 %. The load of the machine
changes both sides: run it when nothing else runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from s2l_ray.artifacts.manifest import open_artifact

STAGE_SHARE, TOTAL_SHARE, LONG_SECONDS = 0.25, 0.15, 20.0


def s2l(*arguments: str) -> str:
    """Standard output of a command."""
    command = [sys.executable, "-m", "s2l_ray", *arguments]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def one_round(job: str, options: list[str], root: str) -> dict[str, tuple[float, float, float, float]]:
    """(estimated seconds, seconds, estimated bytes, bytes) of every stage, and of the total without bytes."""
    own = [job, *options, "--set", f"root={root}"]
    s2l("probe", *own)
    estimated = json.loads(s2l("plan", *own, "--json"))["estimate"]
    began = time.monotonic()
    s2l("run", *own, "--no-report")
    took = time.monotonic() - began
    found = {}
    for step in estimated["steps"]:
        timings = open_artifact(str(Path(root) / step["kind"] / step["fingerprint"])).manifest.timings
        name = f"{step['kind']} {step['fingerprint'][:4]}"
        found[name] = (step["seconds"], timings["seconds"], step["host_bytes"], timings["peak_bytes"])
    return {**found, "total": (estimated["seconds"], took, 0.0, 0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", default="jobs/demo.yaml")
    parser.add_argument("--to", default="")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    wanted = parser.parse_args()
    options = [
        *(["--to", wanted.to] if wanted.to else []),
        *(part for one in wanted.overrides for part in ("--set", one)),
    ]
    rounds = []
    for number in range(wanted.rounds):
        with tempfile.TemporaryDirectory() as folder:
            print(f"round {number + 1}, load {os.getloadavg()[0]:.1f}", flush=True)
            rounds.append(one_round(wanted.job, options, folder))
    missed = False
    for name in rounds[0]:
        seconds = median(one[name][0] / one[name][1] for one in rounds)
        memory = median(one[name][2] / (one[name][3] or 1.0) for one in rounds)
        actual = median(one[name][1] for one in rounds)
        share = TOTAL_SHARE if name == "total" else STAGE_SHARE
        wrong = abs(seconds - 1) > share and (name == "total" or actual > LONG_SECONDS)
        missed |= wrong
        print(f"{name:22} {actual:8.1f} s   time {seconds:5.2f}   memory {memory:5.2f}   {'MISSED' if wrong else ''}")
    sys.exit(missed)


if __name__ == "__main__":
    main()
