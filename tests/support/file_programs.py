"""Programs that tests start as processes of their own: `python -m tests.support.file_programs NAME ARGUMENTS`.

upload SOURCE URI               write a file, in parts
transfer SOURCE URI             write a file, copy it back and print by how many bytes that raised the peak of memory
read_cached URI TMP ROUNDS      read three cached files again and again, with room for two
"""

import resource
import sys
import tempfile
from pathlib import Path

from s2l_ray import storage
from s2l_ray.artifacts.node_cache import cached_files
from s2l_ray.artifacts.tables import record_of

PADDING = bytes(1000)


def upload(source: str, uri: str) -> None:
    storage.put_file(Path(source), uri)


def transfer(source: str, uri: str) -> None:
    storage.exists(uri)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    storage.put_file(Path(source), uri)
    storage.get_file(uri, Path(f"{source}.copy"))
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)


def read_cached(uri: str, temporary: str, rounds: str) -> None:
    tempfile.tempdir = temporary
    for _ in range(int(rounds)):
        for name in "abc":
            data = name.encode() + PADDING
            with cached_files(uri, [record_of(name, data)], 2 * len(data) + 98) as folder:
                assert (folder / name).read_bytes() == data


if __name__ == "__main__":
    {"upload": upload, "transfer": transfer, "read_cached": read_cached}[sys.argv[1]](*sys.argv[2:])
