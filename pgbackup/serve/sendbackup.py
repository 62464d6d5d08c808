"""BASE_BACKUP for one client: the chain, the run, and what is said of damaged pages.

Source: basebackup.c, SendBaseBackup, perform_base_backup (PostgreSQL 18)
"""

from typing import Final

from pgbackup.errors import ClientError
from pgbackup.serve.basebackup.copyout import copy_out
from pgbackup.serve.cancellation import Cancellable
from pgbackup.serve.offer import Offer
from pgbackup.stream.compress import MAX_WORKERS, Compress, ZstdSettings
from pgbackup.stream.gzip import Gzip
from pgbackup.stream.sink import Sink
from pgbackup.stream.throttle import Throttle
from pgbackup.wire import backend
from pgbackup.wire.basebackup import CLIENT, BaseBackup
from pgbackup.wire.compression import Compression

BLACKHOLE: Final = "blackhole"


def send_backup(client: Cancellable, offer: Offer, command: BaseBackup) -> None:
    """Send a backup, all but the end of the command.

    Raises: ClientError for what cannot be had or has damaged pages, PgbackupError.
    """
    _check(command)
    with offer.answer(command) as answer:
        sink = copy_out(client, offer.major, sends_contents=command.target != BLACKHOLE)
        try:
            if command.max_rate is not None:
                sink = Throttle(sink, command.max_rate, sleep=client.pause)
            if command.compression is not None and not answer.is_zstd:
                sink = compressed(sink, command.compression)
            failures = answer.run(sink)
        finally:
            sink.cleanup()
    if command.verify_checksums:
        for text in failures.warnings:
            client.send(backend.warning(text.removeprefix("WARNING:").strip()))
        if failures.is_damaged:
            raise ClientError("checksum verification failure during base backup", sqlstate="XX001")


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
    """Refuse what nobody gets here. Raises: ClientError."""
    if command.target not in (CLIENT, BLACKHOLE):
        raise ClientError(
            "permission denied to create backup stored on server",
            sqlstate="42501",
            detail="Base backups are sent to clients only.",
        )
    if command.incremental:
        raise ClientError("incremental backups are not served", sqlstate="0A000")
