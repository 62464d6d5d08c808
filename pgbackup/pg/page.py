"""Pages of relation files: is their content what the server wrote?

Every page carries a checksum, which depends on its content and its block number. It is checked by a
compiled kernel where there is one, and else by `pagechecksum`; both give the same answers.

Never reads a file: whoever does is asked to read a page again that looks damaged.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pgbackup.pg.lsn import Lsn
from pgbackup.pg.pagechecksum import failing_pages as _portable

try:
    from pgbackup.pg._pagekernel import failing_pages as _compiled
except ImportError:  # there was no compiler when pgbackup was installed
    _failing_pages = _portable
    KERNEL = "portable"
else:
    _failing_pages = _compiled
    KERNEL = "compiled"

PAGE_SIZE: Final = 8192
"""Bytes: what PostgreSQL calls BLCKSZ. Servers built with another size are not checked."""

NO_LIMIT: Final = Lsn(2**64 - 1)
"""As the start of a backup: pages of any LSN are checked."""


class BadPage(NamedTuple):
    """A page whose checksum is wrong.

    block:      its number in the relation fork, not in the segment file.
    calculated: what its content gives.
    expected:   what its header says.
    """

    block: int
    calculated: int
    expected: int


def bad_pages(pages: memoryview, first_block: int, start_lsn: Lsn) -> list[BadPage]:
    """Check consecutive pages as the server does while it sends a base backup.

    pages:       whole pages; their memory is not kept.
    first_block: number of the first, counted from the start of the relation fork.
    start_lsn:   of the backup. Pages with this LSN or a later one are passed over, since the WAL of
                 the backup restores them; so are new pages, which have no content.

    Source: basebackup.c, verify_page_checksum (PostgreSQL 18)
    """
    if len(pages) % PAGE_SIZE:
        raise ValueError(f"{len(pages)} bytes are not whole pages")
    return [
        BadPage(first_block + number, calculated, expected)
        for number, calculated, expected in _failing_pages(pages, first_block, start_lsn)
    ]


def still_bad(
    found: Sequence[BadPage], read_again: Callable[[int], memoryview | None], start_lsn: Lsn
) -> list[BadPage]:
    """Those of `found` that are bad also when they are read a second time.

    A page that the server was just writing may have been read half old and half new. The second
    read comes after that write, and sees the new LSN, which lies in the first half.

    read_again: puts a block where its page had been read to, and gives it; None if the file has
                become too short for it, when nothing behind it is judged either.

    Source: basebackup.c, sendFile (PostgreSQL 18)
    """
    bad: list[BadPage] = []
    for each in found:
        page = read_again(each.block)
        if page is None:
            break
        bad += bad_pages(page, each.block, start_lsn)
    return bad
