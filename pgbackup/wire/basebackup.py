"""The command BASE_BACKUP as a value, and its text for each server major.

Source: basebackup.c, parse_basebackup_options (PostgreSQL 13 to 18).
"""

from dataclasses import dataclass

from pgbackup.errors import UsageError
from pgbackup.wire.commands import PARENTHESES_SINCE
from pgbackup.wire.compression import Compression
from pgbackup.wire.scanner import quote_literal

MAX_LABEL = 1024
"""Bytes; MAXPGPATH, the server refuses longer labels."""

CLIENT = "client"
"""The target of a backup that is sent to whoever asked for it."""


@dataclass(frozen=True, slots=True)
class BaseBackup:
    """Take a base backup.

    max_rate:           kilobytes per second, 32 to 1048576, or None.
    wal:                append the needed WAL files to the main archive.
    wait:               let the server wait until its archiver has the last segment.
    manifest_checksums: NONE, CRC32C, SHA224, SHA256, SHA384 or SHA512; None for no manifest.
    force_encode:       hexadecimal names in the manifest even where they are text.
    target, target_detail, compression: where it goes and how; from 15 on.
    incremental:        on top of the manifest that was handed over; from 17 on.
    """

    label: str
    fast_checkpoint: bool = False
    progress: bool = True
    wal: bool = False
    wait: bool = False
    max_rate: int | None = None
    tablespace_map: bool = True
    verify_checksums: bool = True
    manifest_checksums: str | None = "CRC32C"
    force_encode: bool = False
    target: str = CLIENT
    target_detail: str | None = None
    compression: Compression | None = None
    incremental: bool = False

    def text(self, major: int) -> str:
        if major >= PARENTHESES_SINCE:
            return f"BASE_BACKUP ({', '.join(self._options())})"
        return " ".join(["BASE_BACKUP", *self._legacy_options()])

    def _options(self) -> list[str]:
        options = [f"LABEL {quote_literal(self.label)}"]
        if self.progress:
            options.append("PROGRESS")
        options.append(f"CHECKPOINT '{'fast' if self.fast_checkpoint else 'spread'}'")
        if self.wal:
            options.append("WAL")
        if not self.wait:
            options.append("WAIT false")
        if self.max_rate is not None:
            options.append(f"MAX_RATE {self.max_rate}")
        if self.tablespace_map:
            options.append("TABLESPACE_MAP")
        if not self.verify_checksums:
            options.append("VERIFY_CHECKSUMS false")
        return options + self._manifest_options() + self._new_options()

    def _legacy_options(self) -> list[str]:
        if self.target != CLIENT or self.compression or self.incremental:
            raise UsageError(
                "targets, compression and increments need a server from"
                f" PostgreSQL {PARENTHESES_SINCE} on"
            )
        options = [f"LABEL {quote_literal(self.label)}"]
        if self.progress:
            options.append("PROGRESS")
        if self.fast_checkpoint:
            options.append("FAST")
        if self.wal:
            options.append("WAL")
        if not self.wait:
            options.append("NOWAIT")
        if self.max_rate is not None:
            options.append(f"MAX_RATE {self.max_rate}")
        if self.tablespace_map:
            options.append("TABLESPACE_MAP")
        if not self.verify_checksums:
            options.append("NOVERIFY_CHECKSUMS")
        return options + self._manifest_options()

    def _manifest_options(self) -> list[str]:
        """Those of the manifest, which are the same in both forms."""
        if self.manifest_checksums is None:
            return []
        kind = "force-encode" if self.force_encode else "yes"
        checksums = quote_literal(self.manifest_checksums)
        return [f"MANIFEST '{kind}'", f"MANIFEST_CHECKSUMS {checksums}"]

    def _new_options(self) -> list[str]:
        """Those that there were none of before PARENTHESES_SINCE."""
        options = []
        if self.target != CLIENT:
            options.append(f"TARGET {quote_literal(self.target)}")
        if self.target_detail is not None:
            options.append(f"TARGET_DETAIL {quote_literal(self.target_detail)}")
        if self.compression is not None:
            options.append(f"COMPRESSION '{self.compression.algorithm}'")
            if self.compression.detail:
                options.append(f"COMPRESSION_DETAIL '{self.compression.detail}'")
        if self.incremental:
            options.append("INCREMENTAL")
        return options
