"""What a client gets that asks for a base backup, wherever that comes from."""

from typing import Protocol

from pgbackup.repo.record import ChecksumFailures
from pgbackup.stream.sink import Sink


class Answer(Protocol):
    """One base backup, ready to be sent. is_zstd: archives come compressed, as is wanted."""

    @property
    def is_zstd(self) -> bool: ...

    def run(self, sink: Sink) -> ChecksumFailures:
        """Send everything; the caller cleans the sink up. Raises: PgbackupError."""
