"""A stored backup for a client, which nobody removes while it is being sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pgbackup.backup.stored import StoredBackup
from pgbackup.repo.record import ChecksumFailures
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve.basebackup.answer import Answer
from pgbackup.serve.basebackup.othermanifest import OtherManifest, looks
from pgbackup.serve.basebackup.storedbackup import StoredBackupSource
from pgbackup.serve.basebackup.storedwal import Further
from pgbackup.stream.sink import Sink
from pgbackup.wire.basebackup import BaseBackup

_DEFAULT_ALGORITHM: Final = "CRC32C"


class _StoredAnswer:
    """A stored backup, in its frames if they are what is wanted."""

    def __init__(
        self,
        cluster: ClusterRepository,
        backup: StoredBackup,
        further: Further | None,
        command: BaseBackup,
    ) -> None:
        self._record = backup.record
        self._command = command
        self._algorithm = _other_checksums(command, backup)
        wanted = command.compression
        self.is_zstd = (
            wanted is not None
            and wanted.algorithm == "zstd"
            and not looks(self._algorithm)
            and all(each.is_compressed for each in backup.archives)
        )
        self._source = StoredBackupSource(
            backup, cluster.archive, command, as_stored=self.is_zstd, further=further
        )

    def run(self, sink: Sink) -> ChecksumFailures:
        force_encode = self._command.force_encode
        if self._algorithm is not None or force_encode:
            major = self._record.server_version // 10000
            sink = OtherManifest(sink, major, self._algorithm, force_encode=force_encode)
        self._source.run(sink)
        return self._record.checksum_failures


@contextmanager
def stored_answer(
    cluster: ClusterRepository, backup: StoredBackup, further: Further | None, command: BaseBackup
) -> Iterator[Answer]:
    """Answer with a stored backup. Raises: Locked, StorageError."""
    with cluster.catalog.reading(backup.record.label, "serve"):
        yield _StoredAnswer(cluster, backup, further, command)


def _other_checksums(command: BaseBackup, backup: StoredBackup) -> str | None:
    """Checksums that the stored manifest has not got.

    Who says nothing asks for the default, and gets what is stored.
    """
    asked = command.manifest_checksums
    return None if asked in (_DEFAULT_ALGORITHM, backup.record.checksum_algorithm) else asked
