"""A destination of WAL that keeps it in memory."""

from pgbackup.pg.lsn import Lsn


class MemoryWal:
    """Asserts that WAL arrives without a gap. Flushing is instant, and only on demand."""

    def __init__(self, start: Lsn) -> None:
        self.start = start
        self.content = bytearray()
        self.flushes = 0
        self._flushed = start

    @property
    def write_lsn(self) -> Lsn:
        return Lsn(self.start + len(self.content))

    @property
    def flush_lsn(self) -> Lsn:
        return self._flushed

    def write(self, start: Lsn, data: memoryview) -> None:
        assert start == self.write_lsn
        self.content += data

    def flush(self) -> None:
        self.flushes += 1
        self._flushed = self.write_lsn
