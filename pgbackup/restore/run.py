"""A restore from beginning to end.

First everything is read and checked that can be without writing: manifest, indexes, names, WAL in
the archive. Then directories and links are made, files written side by side on a few threads, all
is synced, and the control file gets its name: from then on, and not before, a server starts. An
error or an interrupt before that removes what was made. A delta restore first finds out what it can
keep, and then does the same for the rest; it removes nothing that it has kept.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pgbackup.backup.crew import Crew, Task
from pgbackup.backup.members import (
    TABLESPACES,
    data_path,
    is_in_place,
    member_problems,
    plain_name,
    tablespace_path,
)
from pgbackup.backup.stored import FrameReader, StoredArchive, StoredBackup
from pgbackup.backup.stretches import Stretch, cut, walk
from pgbackup.errors import CorruptData, WalGap, WrongSystem
from pgbackup.pg.manifest import Manifest, ManifestFile
from pgbackup.pg.tar import DIRECTORY, FILE, padding
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository
from pgbackup.restore.apart import check_apart
from pgbackup.restore.delta import Amount, DeltaCounts, Keeper
from pgbackup.restore.extract import LEFT_OUT, Extractor, Rules, Site
from pgbackup.restore.ground import grounds_of
from pgbackup.restore.newfile import target_errors
from pgbackup.restore.plan import RestorePlan
from pgbackup.restore.recovery import PgWal, put_file, write_settings
from pgbackup.restore.settings import STANDBY_SIGNAL
from pgbackup.restore.target import Targets, targets
from pgbackup.restore.tree import Tree
from pgbackup.storage.durable import FileSystem, syncfs_reports_errors
from pgbackup.stream.index import IndexEntry
from pgbackup.stream.progress import Meter

THREADS_PER_JOB = 2
"""One decodes while the other waits for the disk. With one, a restore took a tenth longer."""

Indexes = Sequence[tuple[StoredArchive, Sequence[IndexEntry]]]


@dataclass(frozen=True, slots=True)
class RestoreOutcome:
    """What was restored.

    size:    bytes, WAL included.
    seconds: how long it took, the final sync included.
    delta:   what became of files; None if that was not asked for.
    """

    files: int
    size: int
    wal_files: int
    seconds: float
    delta: DeltaCounts | None = None


def run_restore(
    plan: RestorePlan,
    cluster: ClusterRepository,
    *,
    jobs: int,
    meter: Meter,
    filesystem: FileSystem | None = None,
) -> RestoreOutcome:
    """Carry a plan out.

    jobs:       how many cores to keep busy.
    filesystem: another one for tests.

    Raises: NotFound, Refused, Locked, CorruptData, WalGap, StorageError, PgbackupError.
    """
    check_apart(plan, cluster.storage.features.local_path)
    with cluster.catalog.reading(plan.record.label, "restore"):
        return _run(plan, cluster, jobs, meter, filesystem or FileSystem())


def _run(
    plan: RestorePlan, cluster: ClusterRepository, jobs: int, meter: Meter, filesystem: FileSystem
) -> RestoreOutcome:
    started = time.monotonic()
    backup = StoredBackup(cluster.storage, plan.record)
    manifest_data = backup.read(layout.MANIFEST)
    manifest = Manifest.parse(manifest_data)
    indexes = _checked_indexes(backup, manifest)
    _check_wal(plan, cluster)
    meter.begin(plan.size)
    with targets(plan, filesystem) as opened:
        restore = _Restore(plan, opened, manifest.files, filesystem)
        crew = Crew(jobs * THREADS_PER_JOB, meter)
        if opened.keeps:
            restore.keep(indexes, crew)
        opened.check_space(restore.sizes(indexes))
        restore.make_directories(indexes)
        wal = PgWal(restore.data_site, restore.rules, cluster.archive, backup, crew.advance)
        wal.make_directories()
        is_needed = restore.is_needed if opened.keeps else None
        stretches = cut(indexes, jobs * THREADS_PER_JOB, is_needed)
        crew.run([*restore.file_tasks(stretches, crew), *_wal_tasks(plan, wal)])
        put_file(restore.data_site, restore.rules, layout.MANIFEST, manifest_data)
        write_settings(restore.data_site, restore.rules, plan)
        opened.finish()
    counts = restore.counts() if plan.delta else None
    seconds = time.monotonic() - started
    return RestoreOutcome(len(manifest.files), plan.size, len(plan.wal_files), seconds, counts)


class _Restore:
    """The parts of a restore that know where things go."""

    def __init__(
        self,
        plan: RestorePlan,
        opened: Targets,
        files: Mapping[str, ManifestFile],
        filesystem: FileSystem,
    ) -> None:
        self._plan = plan
        self._control = opened.control
        self._files = files
        self._removed = Amount()
        self._unlinked: tuple[str, ...] = ()
        left_out = LEFT_OUT - ({STANDBY_SIGNAL} if plan.recovery.keep_standby_signal else set())
        self.rules = Rules(filesystem, plan.mode, not syncfs_reports_errors(), left_out)
        self.data_site = Site(opened.data.fd, opened.data.path, None)
        self._sites: dict[int | None, Site] = {None: self.data_site}
        for each in plan.record.tablespaces:
            if is_in_place(each):
                prefix = tablespace_path(each.oid) + "/"
                site = Site(opened.data.fd, opened.data.path, each.oid, prefix)
            else:
                target = opened.tablespaces[each.oid]
                site = Site(target.fd, target.path, each.oid)
            self._sites[each.oid] = site

    def keep(self, indexes: Indexes, crew: Crew) -> None:
        """Keep what is there and right, and remove the rest."""
        archives = [(archive.record.tablespace, entries) for archive, entries in indexes]
        keeper = Keeper(self.rules, self._files, crew)
        keeper.keep(grounds_of(self._plan, self._sites, archives, self.rules))
        self.rules = replace(self.rules, kept=frozenset(keeper.kept))
        self._removed, self._unlinked = keeper.removed, tuple(keeper.unlinked)

    def counts(self) -> DeltaCounts:
        """What became of the files that were there, and of those of the backup."""
        counts = DeltaCounts(Amount(), Amount(), self._removed, self._unlinked)
        for path, file in self._files.items():
            (counts.kept if path in self.rules.kept else counts.rewritten).add(file.size)
        return counts

    def is_needed(self, archive: StoredArchive, entry: IndexEntry) -> bool:
        """Tell whether a member has to be read."""
        path = data_path(archive.record.tablespace, entry.name)
        return entry.type == FILE and path not in self.rules.kept

    def sizes(self, indexes: Indexes) -> dict[int | None, int]:
        """Bytes of the files that have to be made, by tablespace."""
        return {
            archive.record.tablespace: sum(
                entry.size + padding(entry.size)
                for entry in entries
                if self.is_needed(archive, entry)
            )
            for archive, entries in indexes
        }

    def make_directories(self, indexes: Indexes) -> None:
        """Make every directory, parents first, and the links to the tablespaces."""
        mode = self._plan.mode
        with (
            Tree(self.data_site.root) as tree,
            target_errors("create directory in", self.data_site.name),
        ):
            tree.make_missing(TABLESPACES, mode)
            for each in self._plan.tablespaces:
                if each.directory is None:
                    tree.make_missing(tablespace_path(each.oid), mode)
                else:
                    tree.link(tablespace_path(each.oid), each.directory)
        for archive, entries in indexes:
            site = self._sites[archive.record.tablespace]
            with Tree(site.root) as tree, target_errors("create directory in", site.name):
                for entry in entries:
                    if entry.type == DIRECTORY:
                        tree.make_missing(site.prefix + plain_name(entry.name), mode)

    def file_tasks(self, stretches: Sequence[Stretch], crew: Crew) -> list[Task]:
        """One task for each stretch."""
        return [partial(self._extract, stretch, crew) for stretch in stretches]

    def _extract(self, stretch: Stretch, crew: Crew) -> None:
        site = self._sites[stretch.archive.record.tablespace]
        extractor = Extractor(site, self.rules, self._files, self._control)
        try:
            for length in walk(stretch, extractor, FrameReader(stretch.archive)):
                crew.advance(length)
        finally:
            extractor.close()


def _checked_indexes(backup: StoredBackup, manifest: Manifest) -> Indexes:
    """The members of all archives, of which none may do harm. Raises: CorruptData, WrongSystem."""
    identifier = manifest.system_identifier
    if identifier not in (None, backup.record.system_identifier):
        raise WrongSystem(
            f'could not restore backup "{backup.record.label}": its manifest is of system'
            f" {identifier}, its record of {backup.record.system_identifier}"
        )
    indexes = [(archive, backup.index(archive)) for archive in backup.archives]
    members = [(archive.record, entries) for archive, entries in indexes]
    for problem in member_problems(members, backup.record, manifest.files):
        raise CorruptData(problem, hint=f"Type: pgbackup verify {backup.record.label}")
    return indexes


def _check_wal(plan: RestorePlan, cluster: ClusterRepository) -> None:
    """Raises: WalGap."""
    record = plan.record
    missing = cluster.archive.missing(record.wal, record.wal_segment_size)
    missing += [each.name for each in record.histories if cluster.archive.find(each.name) is None]
    if missing:
        raise WalGap(
            f'could not restore backup "{record.label}": WAL file "{missing[0]}" is not in the'
            " archive",
            detail=f"{len(missing)} files are missing." if len(missing) > 1 else None,
            hint='Run "pgbackup list" and restore another backup.',
        )


def _wal_tasks(plan: RestorePlan, wal: PgWal) -> list[Task]:
    record = plan.record
    tasks: list[Task] = [partial(wal.place_segment, segment) for segment in record.segments()]
    tasks += [partial(wal.place_history, history) for history in record.histories]
    if record.tail is not None:
        tasks.append(partial(wal.place_tail, record.tail))
    return tasks
