"""What a base backup leaves out, and what the names of relation files say.

Pure rules about names, as text with undecodable bytes as surrogates; who walks a data directory
asks them in the server's order. What is excluded by its name is so at any depth.

Source: basebackup.c, sendDir (PostgreSQL 13 to 18).
"""

import re
from typing import Final, NamedTuple

EMPTY_DIRECTORIES: Final = frozenset(
    (
        "pg_stat_tmp",
        "pg_replslot",
        "pg_dynshmem",
        "pg_notify",
        "pg_serial",
        "pg_snapshots",
        "pg_subtrans",
    )
)
"""Stored without what is in them: it means nothing to another server."""

WAL_DIRECTORY: Final = "pg_wal"
TABLESPACE_DIRECTORY: Final = "pg_tblspc"
GLOBAL_DIRECTORY: Final = "global"
CONTROL_FILE: Final = "global/pg_control"

SUMMARIES_SINCE: Final = 17
"""Major that has pg_wal/summaries."""
UNLOGGED_GLOBAL_SINCE: Final = 17
"""Major that looks for unlogged relations in "global" too."""
IN_PLACE_SINCE: Final = 16
"""Major whose directories in pg_tblspc have archives of their own."""

_FILES = frozenset(
    (
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "postmaster.pid",
        "postmaster.opts",
    )
)
_PREFIXES = ("pgsql_tmp", "pg_internal.init")
_FINDER_FILE = ".DS_Store"
_FINDER_FILE_SINCE = 15

_RELATION = re.compile(r"([1-9][0-9]{0,9})(?:_(fsm|vm|init))?(?:\.([1-9][0-9]{0,9}))?", re.ASCII)
_TEMPORARY = re.compile(r"t[0-9]+_[0-9]+(?:_(?:fsm|vm|init))?(?:\.[0-9]+)?", re.ASCII)
_MAX_NUMBER = 2**32 - 1


class RelationFile(NamedTuple):
    """What the name of a relation file says.

    fork:    "main", "fsm", "vm" or "init".
    segment: which of the files of the fork this is, from 0.
    """

    number: int
    fork: str
    segment: int

    @classmethod
    def parse(cls, name: str) -> "RelationFile | None":
        """Read a file name; None unless the server calls a relation's file so.

        Servers before 17 also took numbers with leading zeros for such, and never made one.

        Source: reinit.c, parse_filename_for_nontemp_relation (PostgreSQL 18)
        """
        match = _RELATION.fullmatch(name)
        if match is None:
            return None
        number, segment = int(match[1]), int(match[3] or 0)
        if number > _MAX_NUMBER or segment > _MAX_NUMBER:
            return None
        return cls(number, match[2] or "main", segment)

    @property
    def init_name(self) -> str | None:
        """The file that is there if the relation is unlogged; None for an init fork itself."""
        return None if self.fork == "init" else f"{self.number}_init"


def is_temporary_relation(name: str) -> bool:
    """Whether a file in a directory of relations belongs to a temporary relation.

    Source: fd.c, looks_like_temp_rel_name (PostgreSQL 18)
    """
    return _TEMPORARY.fullmatch(name) is not None


def is_excluded(name: str, major: int) -> bool:
    """Whether a file or directory of this name is left out wherever it is."""
    return (
        name in _FILES
        or name.startswith(_PREFIXES)
        or (name == _FINDER_FILE and major >= _FINDER_FILE_SINCE)
    )


def version_directory(major: int, catalog_version: int) -> str:
    """The directory in a tablespace that belongs to clusters of one version.

    Source: relpath.h, TABLESPACE_VERSION_DIRECTORY (PostgreSQL 18)
    """
    return f"PG_{major}_{catalog_version}"


def is_database_directory(path: str, version: str) -> bool:
    """Whether a directory holds the relations of one database.

    path:    from the top of the data directory, or of the tablespace.
    version: what `version_directory` says.
    """
    parent, _, name = path.rpartition("/")
    if not (name.isascii() and name.isdigit()):
        return False
    return parent == "base" or parent.rpartition("/")[2].endswith(version)


def wal_subdirectories(major: int) -> tuple[str, ...]:
    """What pg_wal holds in a backup: empty directories."""
    return ("archive_status", "summaries") if major >= SUMMARIES_SINCE else ("archive_status",)
