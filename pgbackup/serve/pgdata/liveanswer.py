"""A base backup of the data directory that is served, taken while it is sent."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from pgbackup.backup.pgdata.basebackup import DirectoryBackup, ReadOptions
from pgbackup.backup.pgdata.takelocal import LocalSource, open_session
from pgbackup.backup.request import BackupRequest
from pgbackup.repo.record import ChecksumFailures
from pgbackup.serve.basebackup.answer import Answer
from pgbackup.serve.pgdata.liveserver import LiveServer, ToldSession, told
from pgbackup.stream.compress import MAX_WORKERS
from pgbackup.stream.sink import Sink
from pgbackup.wire.basebackup import BaseBackup

_NO_MANIFEST: Final = "NONE"


class _LiveAnswer:
    """One backup, begun when it is sent."""

    is_zstd = False

    def __init__(self, backup: DirectoryBackup) -> None:
        self._backup = backup

    def run(self, sink: Sink) -> ChecksumFailures:
        outcome = self._backup.run(sink)
        return ChecksumFailures(outcome.is_damaged, outcome.warnings)


@contextmanager
def live_answer(server: LiveServer, command: BaseBackup) -> Iterator[Answer]:
    """Answer with a new backup. Raises: PgbackupError."""
    request = BackupRequest(command.label, command.fast_checkpoint)
    data = server.directory()
    with ExitStack() as stack:
        source = LocalSource(data, server.connect, server.connect)
        with told():
            session, _ = open_session(source, request, stack)
        backup = DirectoryBackup(data, ToldSession(session), _options(command))
        stack.callback(backup.close)
        yield _LiveAnswer(backup)


def _options(command: BaseBackup) -> ReadOptions:
    compression = command.compression
    workers = 1 if compression is None else min(compression.workers or 1, MAX_WORKERS)
    return ReadOptions(
        checksums=command.manifest_checksums or _NO_MANIFEST,
        verify_checksums=command.verify_checksums,
        wal=command.wal,
        threads=workers,
        estimate=command.progress,
        manifest=command.manifest_checksums is not None,
        force_encode=command.force_encode,
        tablespace_map=command.tablespace_map,
    )
