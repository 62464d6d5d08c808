#!/usr/bin/env python3
"""What does it cost to check the checksums of pages, compiled and in Python?

Checks good pages in memory, in pieces of several sizes, on one thread and on two, and reads as
much from the page cache, to compare. Quoted are bytes for each second of CPU of one thread, which
other work on the machine hardly changes, and with two threads for each second of wall.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from pgbackup.pg import pagechecksum
from pgbackup.pg.page import PAGE_SIZE

ALL = 2**64 - 1
"""As a start position: every page is checked."""

FRAME = 4 << 20
"""Bytes that a thread reads at a time into one frame."""

PIECES = (PAGE_SIZE, 8 * PAGE_SIZE, FRAME)

Check = Callable[[memoryview, int, int], list[tuple[int, int, int]]]


def good_pages(size: int) -> memoryview:
    """Random pages with the checksums that they should have."""
    pages = memoryview(bytearray(random.Random(3).randbytes(size)))
    for number in range(size // PAGE_SIZE):
        pages[number * PAGE_SIZE] = 1  # an LSN that is not later than all
    for number, calculated, _ in pagechecksum.failing_pages(pages, 0, ALL):
        pages[number * PAGE_SIZE + 8 : number * PAGE_SIZE + 10] = calculated.to_bytes(2, "little")
    return pages


def checks() -> dict[str, Check]:
    """Each implementation that is there."""
    found: dict[str, Check] = {"in Python": pagechecksum.failing_pages}
    try:
        from pgbackup.pg._pagekernel import failing_pages  # noqa: PLC0415 - it is optional
    except ImportError:
        print("there is no compiled kernel here", file=sys.stderr)
    else:
        found["compiled"] = failing_pages
    return found


def check_all(check: Check, pages: memoryview, piece: int) -> None:
    """Check all pages as good."""
    for start in range(0, len(pages), piece):
        if check(pages[start : start + piece], start // PAGE_SIZE, ALL):
            raise AssertionError("a good page failed")


def read_all(fd: int, memory: memoryview, size: int) -> None:
    """Read a file from the page cache."""
    for start in range(0, size, len(memory)):
        os.preadv(fd, [memory], start)


def rate(work: Callable[[], None], size: int, rounds: int) -> float:
    """MB for each second of this thread's CPU: the median."""
    return statistics.median(size / seconds(work, time.thread_time) for _ in range(rounds)) / 1e6


def rate_of_two(work: Callable[[], None], size: int, rounds: int) -> float:
    """MB for each second of wall, while two threads do the same: the median."""

    def both() -> None:
        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(work) for _ in range(2)]:
                future.result()

    walls = [seconds(both, time.perf_counter) for _ in range(rounds)]
    return statistics.median(2 * size / wall for wall in walls) / 1e6


def seconds(work: Callable[[], None], clock: Callable[[], float]) -> float:
    """How long it takes by a clock."""
    began = clock()
    work()
    return clock() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the bytes, fewer rounds")
    size, rounds = (16 << 20, 3) if parser.parse_args().quick else (64 << 20, 7)
    pages = good_pages(size)
    with tempfile.TemporaryFile() as file:
        file.write(pages)
        file.flush()
        memory = memoryview(bytearray(FRAME))
        read_all(file.fileno(), memory, size)
        reading = rate(lambda: read_all(file.fileno(), memory, size), size, rounds)
    print(f"reading 4 MiB at a time from the page cache: {reading:.0f} MB/s of CPU")
    names = ["8 kB at a time", "64 kB", "4 MiB", "of reading", "4 MiB, two threads"]
    print("".join(f"{name:>20}" for name in ["MB/s", *names]))
    for name, check in checks().items():
        works = [partial(check_all, check, pages, piece) for piece in PIECES]
        rates = [rate(work, size, rounds) for work in works]
        columns = [f"{each:.0f}" for each in rates]
        columns += [f"{rates[-1] / reading:.2f}", f"{rate_of_two(works[-1], size, rounds):.0f}"]
        print("".join(f"{each:>20}" for each in [name, *columns]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
