"""What a restore is going to do, decided before anything is touched.

Pure: a record and the user's wishes in, a plan or a refusal out. Whether the directories can be
used is found out later, by those who open them.
"""

# ruff: noqa: PTH100 - Path.resolve would follow links

import os.path
from collections.abc import Sequence
from dataclasses import dataclass, field

from pgbackup.backup.members import is_in_place
from pgbackup.errors import CorruptData, Refused, UsageError
from pgbackup.repo.catalog import BackupRecord, TablespaceRecord
from pgbackup.restore.settings import Recovery


@dataclass(frozen=True, slots=True)
class TablespaceTarget:
    """Where a tablespace goes.

    location:  where it was on the server.
    directory: absolute; None for one that lies in the data directory itself.
    """

    oid: int
    location: str
    directory: str | None


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """Everything about a restore that can be known beforehand.

    directory: the data directory to be, absolute.
    recovery:  what the server does when it starts.
    delta:     an older state of the same cluster may be there, of which right files are kept.
    """

    record: BackupRecord
    directory: str
    tablespaces: tuple[TablespaceTarget, ...]
    recovery: Recovery = field(default_factory=Recovery)
    delta: bool = False

    @property
    def size(self) -> int:
        """Bytes that will be written, WAL included."""
        segments = self.wal_files
        return self.record.size + len(segments) * self.record.wal_segment_size

    @property
    def wal_files(self) -> tuple[str, ...]:
        """Names of the segments to be placed in pg_wal."""
        names = [segment.name for segment in self.record.segments()]
        if self.record.tail is not None:
            names.append(tail_segment_name(self.record.tail))
        return tuple(names)

    @property
    def major(self) -> int:
        """The major version of the server, 18."""
        return self.record.server_version // 10000

    @property
    def mode(self) -> int:
        """Permission bits of directories: the group may read if it could on the server.

        Source: file_perm.c, SetDataDirectoryCreatePerm (PostgreSQL 18)
        """
        return 0o750 if self.record.data_directory_mode & 0o050 == 0o050 else 0o700


def plan_restore(
    record: BackupRecord,
    directory: str,
    mappings: Sequence[str] = (),
    recovery: Recovery | None = None,
    *,
    delta: bool = False,
) -> RestorePlan:
    """Decide where everything goes.

    directory: absolute, or relative to the current directory.
    mappings:  of tablespaces, each "OLDDIR=NEWDIR".
    recovery:  what the server does when it starts; None lets it stand at the end of the backup.
    delta:     keep what is right in directories of the same cluster.

    Raises: UsageError, Refused when directories overlap, CorruptData for an impossible record.
    """
    if not directory:
        raise UsageError('could not restore into directory "": the name is empty')
    recovery = recovery or Recovery()
    recovery.check()
    places = _map_tablespaces(record.tablespaces, parse_mappings(mappings))
    plan = RestorePlan(record, os.path.abspath(directory), places, recovery, delta)
    _check_overlap([plan.directory, *(each.directory for each in places if each.directory)])
    return plan


def parse_mappings(mappings: Sequence[str]) -> dict[str, str]:
    """Read tablespace mappings. Raises: UsageError."""
    parsed: dict[str, str] = {}
    for text in mappings:
        old, new = parse_mapping(text)
        if old in parsed:
            raise UsageError(
                f'could not use tablespace mapping "{text}": "{old}" is mapped already'
            )
        parsed[old] = new
    return parsed


def parse_mapping(text: str) -> tuple[str, str]:
    r"""Read "OLDDIR=NEWDIR"; an equals sign that belongs to a name is written "\=".

    Raises: UsageError.
    Source: pg_basebackup.c, tablespace_list_append (PostgreSQL 18)
    """
    parts = [""]
    rest = text
    while rest:
        if rest.startswith("\\="):
            parts[-1] += "="
            rest = rest[2:]
            continue
        if rest[0] == "=":
            parts.append("")
        else:
            parts[-1] += rest[0]
        rest = rest[1:]
    if len(parts) > 2:
        raise _unusable(text, 'it has more than one "=" sign')
    if len(parts) < 2 or "" in parts:
        raise _unusable(text, 'it is not of the form "OLDDIR=NEWDIR"')
    for which, path in zip(("old", "new"), parts, strict=True):
        if not path.startswith("/") or "\0" in path:
            raise _unusable(text, f"the {which} directory is not an absolute path")
    return _normal(parts[0]), _normal(parts[1])


def tail_segment_name(tail: str) -> str:
    """The name of the segment that an object with the beginning of it stands for."""
    return tail.removesuffix(".partial")


def _map_tablespaces(
    tablespaces: Sequence[TablespaceRecord], mappings: dict[str, str]
) -> tuple[TablespaceTarget, ...]:
    unused = dict(mappings)
    targets = []
    for each in tablespaces:
        directory: str | None = None
        if not is_in_place(each):
            if not each.location.startswith("/"):
                raise CorruptData(
                    f'could not restore tablespace "{each.oid}": its location'
                    f' "{each.location}" is not absolute'
                )
            location = _normal(each.location)
            directory = unused.pop(location, location)
        targets.append(TablespaceTarget(each.oid, each.location, directory))
    for old in unused:
        raise UsageError(
            f'could not map tablespace directory "{old}": the backup has none there',
            hint='Run "pgbackup show" to see the tablespaces of the backup.',
        )
    return tuple(targets)


def _check_overlap(directories: Sequence[str]) -> None:
    for number, one in enumerate(directories):
        for other in directories[number + 1 :]:
            if os.path.commonpath([one, other]) in (one, other):
                inner, outer = (one, other) if len(one) > len(other) else (other, one)
                raise Refused(
                    f'could not restore into directory "{inner}": it lies in "{outer}",'
                    " which is restored too",
                    hint="Map tablespaces to directories of their own with -T OLDDIR=NEWDIR.",
                )


def _normal(path: str) -> str:
    return "/" + os.path.normpath(path).lstrip("/")


def _unusable(text: str, reason: str) -> UsageError:
    return UsageError(
        f'could not use tablespace mapping "{text}": {reason}',
        hint="Type -T OLDDIR=NEWDIR with two absolute paths.",
    )
