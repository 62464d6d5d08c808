"""Bytes that were nearly right: for feeding what reads from strangers.

Seeded, so that what was found is found again: PGBACKUP_FUZZ_SEED, and PGBACKUP_FUZZ_CASES for more
of them than a run of all tests can wait for.
"""

import os
from collections.abc import Iterator, Sequence
from random import Random

CASES = int(os.environ.get("PGBACKUP_FUZZ_CASES", "20000"))
SEED = int(os.environ.get("PGBACKUP_FUZZ_SEED", "0"))


def mutations(seeds: Sequence[bytes], random: Random) -> Iterator[bytes]:
    """Yield CASES inputs: some of the seeds in a row, mostly with a few changes."""
    for _ in range(CASES):
        data = bytearray(b"".join(random.choices(seeds, k=random.choice((1, 1, 1, 2, 4)))))
        for _ in range(random.randrange(5)):
            change(data, random)
        yield bytes(data)


def change(data: bytearray, random: Random) -> None:
    """Change, remove, insert or repeat something."""
    place, length = random.randrange(len(data) + 1), random.randrange(1, 9)
    match random.randrange(4):
        case 0:
            data[place : place + 1] = random.randbytes(1)
        case 1:
            del data[place : place + length]
        case 2:
            data[place:place] = random.randbytes(length)
        case _:
            data[place:place] = data[: 4 * length]
