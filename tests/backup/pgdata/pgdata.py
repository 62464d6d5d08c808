"""Data directories that no server has made, with as much in them as a walk looks at."""

import os
from collections.abc import Mapping
from pathlib import Path

from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.entries import Entry, Walk
from tests.pg.test_control import control_data

VERSION_DIRECTORIES = {
    13: "PG_13_202007201",
    14: "PG_14_202107181",
    15: "PG_15_202209061",
    16: "PG_16_202307071",
    17: "PG_17_202406281",
    18: "PG_18_202506291",
}


def make_pgdata(path: Path, major: int, files: Mapping[str, bytes] | None = None) -> Path:
    """Make a data directory; files may lie in directories that are made with them."""
    control = control_data(major).ljust(8192, b"\0")
    always = {"PG_VERSION": b"%d\n" % major, "global/pg_control": control}
    for name in ("base/1", "pg_tblspc", "pg_wal"):
        (path / name).mkdir(parents=True)
    for name, content in {**always, **(files or {})}.items():
        file = path / os.fsdecode(name.encode("utf-8", "surrogateescape"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def walk(pgdata: Path, *, has_map: bool = True) -> dict[str, dict[str, Entry]]:
    """The members of each archive by their names."""
    data = DataDirectory.open(str(pgdata))
    tablespaces = data.tablespaces()
    steps = Walk(data, tablespaces, has_map=has_map)
    return {
        each.archive_name: {entry.header.name: entry for entry in steps.entries(each)}
        for each in tablespaces
    }
