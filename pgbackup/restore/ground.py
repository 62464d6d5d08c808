"""What may stay where in directories that a delta restore takes over.

Pure: plan and indexes in, paths out, in the form that the system calls give them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pgbackup.backup.members import (
    CONTROL_FILE,
    TABLESPACES,
    data_path,
    tablespace_path,
)
from pgbackup.pg.tar import DIRECTORY, FILE
from pgbackup.repo import layout
from pgbackup.restore.existing import GLOBAL, UNFINISHED_CONTROL
from pgbackup.restore.extract import Rules, Site
from pgbackup.restore.plan import RestorePlan
from pgbackup.restore.recovery import ARCHIVE_STATUS, PG_WAL
from pgbackup.restore.tree import raw_name
from pgbackup.stream.index import IndexEntry


@dataclass(slots=True)
class Ground:
    """What may stay in one directory that was taken over. Paths are relative to it.

    root:        descriptor of it; stays the caller's.
    name:        of it, for messages.
    prefix:      what comes before its paths in the manifest.
    is_shared:   what is at the top and not of the backup belongs to somebody else.
    files:       those that stay if they are right, with their paths in the manifest.
    own:         files that are written anew, whatever is there.
    untouched:   files that are ours.
    directories: of the backup.
    links:       and where they lead.
    """

    root: int
    name: str
    prefix: str = ""
    is_shared: bool = False
    files: dict[str, str] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    untouched: set[str] = field(default_factory=set)
    directories: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)

    def add(self, tablespace: int | None, entry: IndexEntry, rules: Rules) -> None:
        """Take a member of an archive."""
        listed = data_path(tablespace, entry.name)
        path = raw_name(listed.removeprefix(self.prefix))
        if entry.type == DIRECTORY:
            self.directories.add(path)
        elif entry.type == FILE and listed != CONTROL_FILE and listed not in rules.left_out:
            self.files[path] = listed


def grounds_of(
    plan: RestorePlan,
    sites: Mapping[int | None, Site],
    archives: Iterable[tuple[int | None, Sequence[IndexEntry]]],
    rules: Rules,
) -> list[Ground]:
    """One for the data directory, and one for each tablespace that is not inside.

    archives: the members by tablespace.
    """
    data = _data_ground(plan, sites[None])
    grounds: dict[int | None, Ground] = {None: data}
    for each in plan.tablespaces:
        path = tablespace_path(each.oid)
        if each.directory is None:
            data.directories.add(path)
        else:
            site = sites[each.oid]
            data.links[path] = each.directory
            grounds[each.oid] = Ground(site.root, site.name, path + "/", is_shared=True)
    for oid, entries in archives:
        ground = grounds.get(oid, data)
        for entry in entries:
            ground.add(oid, entry, rules)
    return list(grounds.values())


def _data_ground(plan: RestorePlan, site: Site) -> Ground:
    placed = [*plan.wal_files, *(each.name for each in plan.record.histories)]
    own = {CONTROL_FILE, layout.MANIFEST}
    own |= {f"{PG_WAL}/{name}" for name in placed}
    own |= {f"{ARCHIVE_STATUS}/{name}.done" for name in placed}
    if plan.recovery.signal is not None:
        own.add(plan.recovery.signal)
    return Ground(
        site.root,
        site.name,
        own=own,
        untouched={f"{GLOBAL}/{UNFINISHED_CONTROL}"},
        directories={GLOBAL, TABLESPACES, PG_WAL, ARCHIVE_STATUS},
    )
