#!/usr/bin/env python3
"""What a link of the chain costs per buffer, apart from what it does with the bytes.

Measures, without touching a byte: lending and giving back a page buffer, one contents call through
1 to 5 forwarding links, and the same with the read of `buffer` that each call needs. At 1 MiB per
buffer, 1 GiB/s is about a thousand buffers a second: a microsecond per call is 0.1 percent.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from pgbackup.stream.buffers import BufferPool
from pgbackup.stream.sink import End, Sink

LINKS = (0, 1, 2, 3, 4, 5)
BUFFER_SIZE = 1024 * 1024
"""Bytes; what the ends of a real chain lend."""

Loop = Callable[[int], None]


class Discard(End):
    """An end that forgets."""

    def __init__(self, buffer: memoryview) -> None:
        super().__init__()
        self._buffer = buffer

    @property
    def buffer(self) -> memoryview:
        return self._buffer


def chain(links: int, end: Sink) -> Sink:
    """So many links that forward everything, and the end."""
    sink = end
    for _ in range(links):
        sink = Sink(sink)
    return sink


def contents_loop(sink: Sink) -> Loop:
    """Hand over buffers without reading where the next one is."""

    def loop(count: int) -> None:
        contents = sink.archive_contents
        for _ in range(count):
            contents(BUFFER_SIZE)

    return loop


def buffer_loop(sink: Sink) -> Loop:
    """Hand over buffers as a source does: read `buffer` again after each call."""

    def loop(count: int) -> None:
        contents = sink.archive_contents
        for _ in range(count):
            _ = sink.buffer
            contents(BUFFER_SIZE)

    return loop


def pool_loop(pool: BufferPool) -> Loop:
    """Borrow and give back."""

    def loop(count: int) -> None:
        for _ in range(count):
            pool.acquire().release()

    return loop


def nanoseconds(loop: Loop, count: int, repeats: int) -> tuple[float, float]:
    """Best and median time of one round, over several runs of the loop."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter_ns()
        loop(count)
        times.append((time.perf_counter_ns() - began) / count)
    return min(times), statistics.median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    count, repeats = (20_000, 3) if parser.parse_args().quick else (200_000, 7)
    print(f"{'what':34}{'best':>10}{'median':>10}  ns per buffer")
    with BufferPool(4, BUFFER_SIZE) as pool:
        report("pool: acquire and release", pool_loop(pool), count, repeats)
        page = pool.acquire()
        for links in LINKS:
            sink = chain(links, Discard(page.view))
            report(f"contents through {links} links", contents_loop(sink), count, repeats)
        for links in LINKS:
            sink = chain(links, Discard(page.view))
            report(f"buffer, contents through {links} links", buffer_loop(sink), count, repeats)
        page.release()
    return 0


def report(what: str, loop: Loop, count: int, repeats: int) -> None:
    """Print one line of the table."""
    best, median = nanoseconds(loop, count, repeats)
    print(f"{what:34}{best:10.0f}{median:10.0f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
