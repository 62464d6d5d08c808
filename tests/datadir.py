"""New data directories: made by initdb once, then copied, each with its own identity.

initdb takes a second, a copy a tenth of it. A copy gets a new system identifier, as if initdb had
been run for it: two clusters of one test must never look like one.
"""

import re
import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.account import Account, ClusterError
from tests.binaries import server_bin

CONTROL_FILE_DATA = range(200, 512)
LONG_HEADER_SYSID = 24
"""Offset of xlp_sysid in the first page of a WAL file. Source: xlog_internal.h (PostgreSQL 18)."""


@dataclass(frozen=True, slots=True)
class InitOptions:
    """What initdb fixes for the life of a cluster."""

    major: int
    wal_segsize_mb: int = 1
    checksums: bool = True
    allow_group_access: bool = False

    @property
    def name(self) -> str:
        """Name that differs whenever an option does."""
        checksums = "sums" if self.checksums else "nosums"
        group = "-group" if self.allow_group_access else ""
        return f"{self.major}-{self.wal_segsize_mb}MB-{checksums}{group}"


def create(pgdata: Path, options: InitOptions, account: Account, templates: Path | None) -> None:
    """Make a data directory; its parent must belong to the account.

    templates: directory for copies to be made from, None to run initdb for this cluster alone.
    """
    if templates is None:
        run_initdb(pgdata, options, account)
        return
    template = templates / f"{options.name}-{account.uid}" / "data"
    if not template.exists():
        account.make_directory(template.parent)
        unfinished = template.with_name("unfinished")
        run_initdb(unfinished, options, account)
        unfinished.rename(template)
    subprocess.run(["cp", "-a", "--reflink=auto", template, pgdata], check=True)
    set_system_identifier(pgdata, (int(time.time()) << 32) | secrets.randbits(32))


def run_initdb(pgdata: Path, options: InitOptions, account: Account) -> None:
    """Run initdb: superuser postgres, trust for everyone who can connect, locale C."""
    words = ["-D", str(pgdata), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
    words += ["--no-sync", f"--wal-segsize={options.wal_segsize_mb}"]
    if options.checksums:
        words.append("--data-checksums")
    elif options.major >= 18:
        words.append("--no-data-checksums")
    if options.allow_group_access:
        words.append("--allow-group-access")
    account.run(server_bin("initdb", options.major), *words)


def set_system_identifier(pgdata: Path, identifier: int) -> None:
    """Give a never started cluster another system identifier, in pg_control and in its WAL."""
    value = identifier.to_bytes(8, "little")
    with open(pgdata / "global" / "pg_control", "r+b") as control:
        data = bytearray(control.read())
        end = control_checksum_offset(data)
        data[:8] = value
        data[end : end + 4] = crc32c(data[:end])[-1].to_bytes(4, "little")
        control.seek(0)
        control.write(data)
    for segment in (pgdata / "pg_wal").iterdir():
        if re.fullmatch("[0-9A-F]{24}", segment.name):
            with open(segment, "r+b") as wal:
                wal.seek(LONG_HEADER_SYSID)
                wal.write(value)


def control_checksum_offset(data: bytes | bytearray) -> int:
    """Offset of the checksum in pg_control: it ends the struct, whose size differs by major."""
    sums = crc32c(data[: CONTROL_FILE_DATA.stop])
    for offset in CONTROL_FILE_DATA:
        if int.from_bytes(data[offset : offset + 4], "little") == sums[offset]:
            return offset
    raise ClusterError("pg_control holds no matching checksum")


def crc32c(data: bytes | bytearray) -> list[int]:
    """CRC-32C of every prefix of the data, the empty one first."""
    table = []
    for number in range(256):
        for _ in range(8):
            number = (number >> 1) ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    state, sums = 0xFFFFFFFF, [0]
    for byte in data:
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
        sums.append(state ^ 0xFFFFFFFF)
    return sums


def restrict(pgdata: Path) -> None:
    """Take away the permissions that make a server refuse a data directory."""
    mode = pgdata.stat().st_mode
    pgdata.chmod(0o750 if mode & 0o050 == 0o050 else 0o700)
