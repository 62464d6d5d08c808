#!/usr/bin/env python3
"""What does the alignment of a page buffer buy?

Reads a file that is in the page cache into buffers whose address is a multiple of 4096 bytes, of
512 (as behind a tar header), of 8 and of nothing; then verifies pages, sums up and compresses what
is there. Then the same reads with direct I/O, which refuses what is not aligned enough, and direct
I/O with the copy behind a tar header that our backups make. The figures are the best of several
rounds, in GB/s.
"""

import argparse
import mmap
import os
import random
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import zstandard
from crc32c import crc32c
from pairs import machine, print_rows

from pgbackup.backup.pgdata.directread import DirectReads
from pgbackup.pg.lsn import Lsn
from pgbackup.pg.page import KERNEL, PAGE_SIZE, bad_pages

SIZE = 1 << 20
OFFSETS = (0, 512, 8, 1)
"""Of the buffer behind a multiple of 4096 bytes."""

PAST = Lsn(2**63)
"""Behind every page."""


def main() -> None:
    """Measure, print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--quick", action="store_true", help="a small run that keeps this alive")
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.rounds = 8, 1
    with tempfile.NamedTemporaryFile(dir=options.directory) as file:
        content = pages()
        for _ in range(options.megabytes):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
        print(machine(), f"page check: {KERNEL}\n")
        print_rows(
            [row(file.name, offset, options.megabytes, options.rounds) for offset in OFFSETS],
            ("offset", "read", "check", "crc32c", "zstd 1", "direct", "direct and copy"),
        )


def pages() -> bytes:
    """Pages of rows and of random bytes, with the checksums of the first blocks of a relation."""
    header = struct.pack("<QHHHHHHI", 0, 0, 0, 24, 8192, 8192, 0x2004, 0)
    page = header + random.Random(1).randbytes(2024) + b"row " * 1536
    found = bytearray(page * (SIZE // PAGE_SIZE))
    for bad in bad_pages(memoryview(found), 0, PAST):
        struct.pack_into("<H", found, bad.block * PAGE_SIZE + 8, bad.calculated)
    return bytes(found)


def row(path: str, offset: int, megabytes: int, rounds: int) -> list[str]:
    """The figures for one offset."""
    memory = memoryview(mmap.mmap(-1, SIZE + 4096))[offset : offset + SIZE]
    zstd = zstandard.ZstdCompressor(1, write_checksum=True)
    reads = DirectReads(1)
    cached = os.open(path, os.O_RDONLY)
    direct = reads.open(os.fsencode(path), os.O_RDONLY)

    def speed(work: Callable[[int], object]) -> str:
        best = min(timed(work, megabytes) for _ in range(rounds))
        return f"{megabytes * SIZE / best / 1e9:.2f}"

    figures = [
        speed(lambda at: os.preadv(cached, [memory], at)),
        speed(lambda at: bad_pages(memory, 0, PAST)),
        speed(lambda at: crc32c(memory)),
        speed(lambda at: zstd.compress(memory)),
        speed(lambda at: os.preadv(direct, [memory], at)) if takes(direct, memory) else "refused",
        speed(lambda at: reads.read(direct, at, memory)),
    ]
    os.close(cached)
    os.close(direct)
    reads.close()
    return [str(offset), *figures]


def timed(work: Callable[[int], object], megabytes: int) -> float:
    """Seconds for all of the file."""
    began = time.perf_counter()
    for number in range(megabytes):
        work(number * SIZE)
    return time.perf_counter() - began


def takes(fd: int, memory: memoryview) -> bool:
    """Whether direct I/O reads into this memory."""
    try:
        os.preadv(fd, [memory], 0)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
