"""Is a stored backup what it was when it was taken, and can it be restored?

Everything is read: each object's bytes against the record, each frame, each member against index
and manifest, manifest and labels against the record, and all WAL that is needed. What is wrong is
collected, a sentence each; only a storage that cannot be read ends the run early.

Never repairs anything, and changes nothing.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from pgbackup.backup.crew import Crew, Task
from pgbackup.backup.members import BACKUP_LABEL, CONTROL_FILE, member_problems
from pgbackup.backup.stored import StoredArchive, StoredBackup
from pgbackup.backup.stretches import cut
from pgbackup.backup.verification.archive import ArchiveCheck
from pgbackup.backup.verification.pages import PageCheck, PagesReport
from pgbackup.backup.verification.record import label_problems, record_problems
from pgbackup.backup.verification.wal import WalCheck
from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.manifest import Manifest
from pgbackup.repo import layout
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import ClusterRepository
from pgbackup.stream.index import IndexEntry
from pgbackup.stream.progress import Meter


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found.

    problems:  sentences; none if the backup is good.
    files:     of the manifest.
    size:      plain bytes of all archives.
    wal_files: segments that the backup needs.
    pages:     what was found in pages; None if they were not to be checked, or could not.
    """

    label: str
    problems: tuple[str, ...]
    files: int
    size: int
    wal_files: int
    seconds: float
    pages: PagesReport | None = None


def verify_backup(
    cluster: ClusterRepository,
    record: BackupRecord,
    *,
    jobs: int,
    meter: Meter,
    fail_fast: bool = False,
    pages: bool = False,
) -> VerifyReport:
    """Read a whole backup and its WAL.

    jobs:      threads.
    fail_fast: stop at the first problem.
    pages:     check the checksums of pages, too.

    Raises: NotFound, Locked if the backup is being removed, StorageError.
    """
    started = time.monotonic()
    verification = _Verification(cluster, record, fail_fast, pages)
    with suppress(_Enough), cluster.catalog.reading(record.label, "verify"):
        verification.run(jobs, meter)
    return VerifyReport(
        record.label,
        tuple(verification.problems),
        0 if verification.manifest is None else len(verification.manifest.files),
        record.size,
        sum(1 for _ in record.segments()) + (record.tail is not None),
        time.monotonic() - started,
        None if verification.pages is None else verification.pages.report(),
    )


class _Enough(Exception):
    """The first problem was found, and no other is wanted."""


class _Verification:
    """One run over one backup."""

    def __init__(
        self,
        cluster: ClusterRepository,
        record: BackupRecord,
        fail_fast: bool,
        wants_pages: bool,
    ) -> None:
        self._cluster = cluster
        self._record = record
        self._fail_fast = fail_fast
        self._wants_pages = wants_pages
        self._backup = StoredBackup(cluster.storage, record)
        self._lock = threading.Lock()
        self.problems: list[str] = []
        self.manifest: Manifest | None = None
        self.pages: PageCheck | None = None

    def run(self, jobs: int, meter: Meter) -> None:
        record = self._record
        segments = sum(1 for _ in record.segments()) + (record.tail is not None)
        meter.begin(record.size + segments * record.wal_segment_size)
        crew = Crew(jobs, meter)
        self._report_all(self._object_problems())
        self.manifest = self._read_manifest()
        self._report_all(record_problems(record, self.manifest))
        files = {} if self.manifest is None else self.manifest.files
        indexes = self._read_indexes()
        if self._wants_pages:
            self.pages = self._page_check(indexes)
        checks = {
            archive.record.name: ArchiveCheck(
                archive, record, files, self._report, crew.advance, self.pages
            )
            for archive in self._backup.archives
        }
        usable = [
            (archive, checks[archive.record.name].scan() if entries is None else entries)
            for archive, entries in indexes
            if checks[archive.record.name].is_readable()
        ]
        if self.manifest is not None:
            members = [(archive.record, entries) for archive, entries in usable]
            self._report_all(member_problems(members, record, files))
        tasks: list[Task] = [
            partial(checks[stretch.archive.record.name].check, stretch)
            for stretch in cut(usable, jobs)
        ]
        crew.run([*tasks, partial(self._check_wal, crew)])
        for archive, _ in usable:
            checks[archive.record.name].finish()
        self._check_kept(checks.values())

    def _object_problems(self) -> Iterable[str]:
        """Compare what is in the backup's folder with the record."""
        folder, record = self._backup.folder, self._record
        expected = {archive.name: archive.stored_size for archive in record.archives}
        expected |= {each.name: each.size for each in record.objects}
        found = {
            each.name.removeprefix(folder): each.size for each in self._backup.storage.list(folder)
        }
        for name in (layout.RECORD, layout.PIN, layout.ALONE):
            found.pop(name, None)
        for name in [layout.MANIFEST, *(each.index_name for each in self._backup.archives)]:
            if name not in expected:
                yield f'could not use backup record "{record.label}": it has no object "{name}"'
        if record.tail is not None and record.tail not in expected:
            yield (
                f'could not use backup record "{record.label}": it has no object "{record.tail}"'
            )
        for name in sorted(expected.keys() | found.keys()):
            located = self._backup.storage.locate(folder + name)
            if name not in found:
                yield f'could not find object "{located}": there is no such object'
            elif name not in expected:
                yield f'could not account for object "{located}": the record does not know it'
            elif found[name] != expected[name]:
                yield (
                    f'could not accept object "{located}": it has {found[name]} bytes instead of'
                    f" {expected[name]}"
                )

    def _read_manifest(self) -> Manifest | None:
        try:
            return self._backup.manifest()
        except (CorruptData, NotFound) as error:
            self._report(error.message)
        return None

    def _read_indexes(self) -> list[tuple[StoredArchive, Sequence[IndexEntry] | None]]:
        indexes: list[tuple[StoredArchive, Sequence[IndexEntry] | None]] = []
        for archive in self._backup.archives:
            try:
                indexes.append((archive, self._backup.index(archive)))
            except (CorruptData, NotFound) as error:
                self._report(error.message)
                indexes.append((archive, None))
        return indexes

    def _page_check(
        self, indexes: Iterable[tuple[StoredArchive, Sequence[IndexEntry] | None]]
    ) -> PageCheck | None:
        readable = [(archive, entries) for archive, entries in indexes if entries is not None]
        try:
            return PageCheck.of_backup(self._backup, readable)
        except (CorruptData, NotFound) as error:
            self._report(error.message)
        return None

    def _check_wal(self, crew: Crew) -> None:
        check = WalCheck(self._backup, self._cluster.archive, crew.advance)
        self._report_all(check.problems())

    def _check_kept(self, checks: Iterable[ArchiveCheck]) -> None:
        kept: dict[str, bytes] = {}
        for check in checks:
            kept |= check.kept
        self._report_all(
            label_problems(self._record, kept.get(BACKUP_LABEL), kept.get(CONTROL_FILE))
        )

    def _report(self, problem: str) -> None:
        with self._lock:
            if self._fail_fast and self.problems:
                raise _Enough
            if problem not in self.problems:
                self.problems.append(problem)
        if self._fail_fast:
            raise _Enough

    def _report_all(self, problems: Iterable[str]) -> None:
        for problem in problems:
            self._report(problem)
