"""What a backup is asked for, and what has to be known of its server before it starts."""

from dataclasses import dataclass

from pgbackup.stream.compress import ZstdSettings
from pgbackup.wire.basebackup import BaseBackup


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What the user asked for.

    comment:     the -l text, kept in backup_label and in the record.
    max_rate:    kilobytes per second, or None.
    checksums:   manifest checksum algorithm, in capitals; NONE is one of them.
    compression: None stores plain tar.
    direct_io:   read a data directory past the page cache; means nothing for a server.
    """

    comment: str = "pgbackup base backup"
    fast_checkpoint: bool = False
    max_rate: int | None = None
    checksums: str = "CRC32C"
    verify_checksums: bool = True
    compression: ZstdSettings | None = None
    direct_io: bool = False

    def command(self, *, wal: bool) -> BaseBackup:
        """The BASE_BACKUP that this asks for."""
        return BaseBackup(
            label=self.comment,
            fast_checkpoint=self.fast_checkpoint,
            wal=wal,
            max_rate=self.max_rate,
            tablespace_map=False,
            verify_checksums=self.verify_checksums,
            manifest_checksums=self.checksums,
        )


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What has to be known of a server before its backup starts.

    is_primary: it surely ends its segment of WAL with the backup.
    """

    system_identifier: int
    version: int
    version_text: str
    segment_size: int
    data_directory_mode: int
    is_primary: bool
