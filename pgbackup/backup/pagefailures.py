"""What is said of the damaged pages of a file, in the server's words.

Source: basebackup.c, sendFile (PostgreSQL 18)
"""

from collections.abc import Iterable, Iterator
from typing import Final

from pgbackup.pg.page import BadPage

MAX_REPORTED: Final = 5
"""Damaged pages of one file that are told one by one."""


def first_failures(bad: Iterable[BadPage]) -> list[BadPage]:
    """Those to be told one by one, in order."""
    return sorted(bad)[:MAX_REPORTED]


def failure_sentences(name: str, bad: Iterable[BadPage], count: int) -> Iterator[str]:
    """Yield what the server would say.

    bad:   the first of them.
    count: of all in the file.
    """
    for number, (block, calculated, expected) in enumerate(bad, 1):
        yield (
            f'checksum verification failed in file "{name}", block {block}:'
            f" calculated {calculated:X} but expected {expected:X}"
        )
        if number == MAX_REPORTED:
            yield (f'further checksum verification failures in file "{name}" will not be reported')
    if count > 1:
        yield f'file "{name}" has a total of {count} checksum verification failures'
