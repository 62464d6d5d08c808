"""Small tar archives for tests."""

from pgbackup.pg.tar import BLOCK_SIZE, DIRECTORY, END_OF_ARCHIVE, FILE, SYMLINK, TarHeader, padding

Member = tuple[str, bytes]


def header(name: str, size: int, kind: str = FILE, link: str = "") -> bytes:
    return TarHeader(name, size, 0o600, 26, 26, 1_700_000_000, kind, link).encode()


def file(name: str, content: bytes) -> bytes:
    """A file as it stands in an archive."""
    return header(name, len(content)) + content + bytes(padding(len(content)))


def directory(name: str) -> bytes:
    return header(name, 0, DIRECTORY)


def symlink(name: str, target: str) -> bytes:
    return header(name, 0, SYMLINK, target)


MEMBERS: tuple[Member, ...] = (
    ("backup_label", b"START WAL LOCATION: 0/2000028\n"),
    ("base/1/PG_VERSION", b"15\n"),
    ("base/1/empty", b""),
    ("base/1/block", bytes(range(256)) * 2),
    ("base/1/longer", b"x" * 513),
    ("base/1/1255", b"page" * 6000),
    ("global/pg_control", bytes(8192)),
)


def archive(members: tuple[Member, ...] = MEMBERS) -> bytes:
    """A whole archive with its end marker."""
    return b"".join(file(*member) for member in members) + END_OF_ARCHIVE


def headers(data: bytes) -> list[TarHeader]:
    """The headers of a whole archive."""
    found, at = [], 0
    while at < len(data) and (header := TarHeader.parse(data[at : at + BLOCK_SIZE])) is not None:
        found.append(header)
        at += BLOCK_SIZE + header.size + padding(header.size)
    return found
