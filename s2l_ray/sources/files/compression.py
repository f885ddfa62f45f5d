"""Decompression of files as a stream of chunks of bounded size."""

import bz2
import gzip
import io
import zlib
from collections.abc import Iterator

import pyarrow as pa

from s2l_ray.sources.rows import BrokenFileError

CHUNK_BYTES = 4 << 20
DECOMPRESSED_BYTES = 1 << 20
# A read of damaged zstandard data returns nothing of what precedes the damage, so reads are small.
ZSTD_BYTES = 16 << 10

# First bytes of the data of each kind of compression. pzstd writes a skippable frame first.
ZSTD, ZSTD_SKIPPABLE = b"\x28\xb5\x2f\xfd", tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))
SIGNATURES = {"gzip": (b"\x1f\x8b",), "zstd": (ZSTD, *ZSTD_SKIPPABLE), "bz2": (b"BZh",)}


def decompress(stream: io.RawIOBase | pa.NativeFile, compression: str) -> Iterator[bytes]:
    """Decompress data of one or more members (frames), in chunks of at most `DECOMPRESSED_BYTES`.

    Raises `BrokenFileError` if the data is truncated or damaged.
    """
    data, size = _open(stream, compression)
    try:
        while chunk := data.read1(size):  # read1 returns all data before the damage
            yield chunk
    except (EOFError, zlib.error) as error:
        raise BrokenFileError(f"truncated or damaged {compression} data: {error}") from error
    except OSError as error:
        if error.errno is not None:  # of the disk
            raise
        raise BrokenFileError(f"truncated or damaged {compression} data: {error}") from error


def _open(
    stream: io.RawIOBase | pa.NativeFile, compression: str
) -> tuple[gzip.GzipFile | bz2.BZ2File | pa.NativeFile, int]:
    """The decompressed file, and the size of a read."""
    if compression == "zstd":
        return pa.CompressedInputStream(stream, "zstd"), ZSTD_BYTES
    packed = io.BufferedReader(stream, CHUNK_BYTES)  # makes large reads of small ones
    return (gzip.GzipFile(fileobj=packed) if compression == "gzip" else bz2.BZ2File(packed)), DECOMPRESSED_BYTES
