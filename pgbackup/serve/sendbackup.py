"""BASE_BACKUP for one client: what can be had, the chain, and the run.

Source: basebackup.c, SendBaseBackup (PostgreSQL 18)
"""

from typing import Final

from pgbackup.backup.stored import StoredBackup
from pgbackup.errors import ClientError
from pgbackup.pg.lsn import WalPosition
from pgbackup.serve.copyout import Outgoing, copy_out
from pgbackup.serve.offer import Offer
from pgbackup.serve.othermanifest import OtherManifest, looks
from pgbackup.serve.storedbackup import StoredBackupSource
from pgbackup.serve.storedwal import Further
from pgbackup.stream.compress import MAX_WORKERS, Compress, ZstdSettings
from pgbackup.stream.gzip import Gzip
from pgbackup.stream.sink import Sink
from pgbackup.stream.throttle import Throttle
from pgbackup.wire.basebackup import CLIENT, BaseBackup
from pgbackup.wire.compression import Compression

BLACKHOLE: Final = "blackhole"

_DEFAULT_ALGORITHM = "CRC32C"
_NOT_SUPPORTED = "0A000"


def send_backup(client: Outgoing, offer: Offer, command: BaseBackup) -> WalPosition:
    """Send a backup, all but the end of the command; return its stop position.

    Raises: ClientError for what cannot be had, PgbackupError.
    """
    backup = offer.backup()
    _check(command)
    end = offer.end
    further = None if end is None else Further(offer.wal(end.timeline), end)
    with offer.cluster.catalog.reading(backup.record.label, "serve"):
        algorithm = _other_checksums(command, backup)
        as_stored = (
            _wants_zstd(command)
            and not looks(algorithm)
            and all(each.is_compressed for each in backup.archives)
        )
        source = StoredBackupSource(
            backup, offer.cluster.archive, command, as_stored=as_stored, further=further
        )
        sink = copy_out(client, offer.major, sends_contents=command.target != BLACKHOLE)
        try:
            if command.max_rate is not None:
                sink = Throttle(sink, command.max_rate)
            if command.compression is not None and not as_stored:
                sink = compressed(sink, command.compression)
            if algorithm is not None or command.force_encode:
                sink = OtherManifest(
                    sink, offer.major, algorithm, force_encode=command.force_encode
                )
            return source.run(sink)
        finally:
            sink.cleanup()


def _other_checksums(command: BaseBackup, backup: StoredBackup) -> str | None:
    """Checksums that the stored manifest has not got.

    Who says nothing asks for the default, and gets what is stored.
    """
    asked = command.manifest_checksums
    return None if asked in (_DEFAULT_ALGORITHM, backup.record.checksum_algorithm) else asked


def _wants_zstd(command: BaseBackup) -> bool:
    return command.compression is not None and command.compression.algorithm == "zstd"


def compressed(sink: Sink, compression: Compression) -> Sink:
    """The link that does what a client asked for; zstd takes long distances as they come."""
    if compression.algorithm == "gzip":
        return Gzip(sink, -1 if compression.level is None else compression.level)
    if compression.algorithm == "lz4":
        from pgbackup.stream.lz4 import DEFAULT_LEVEL, Lz4  # noqa: PLC0415 - few want it

        return Lz4(sink, DEFAULT_LEVEL if compression.level is None else compression.level)
    level = 3 if compression.level is None else compression.level
    return Compress(sink, ZstdSettings(level, min(compression.workers or 1, MAX_WORKERS)))


def _check(command: BaseBackup) -> None:
    """Refuse what a stored backup cannot give. Raises: ClientError."""
    if command.target not in (CLIENT, BLACKHOLE):
        raise ClientError(
            "permission denied to create backup stored on server",
            sqlstate="42501",
            detail="A repository sends its backups to clients only.",
        )
    if command.incremental:
        raise ClientError("incremental backups are not served", sqlstate=_NOT_SUPPORTED)
