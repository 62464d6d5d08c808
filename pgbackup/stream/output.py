"""Output: the end of a chain that writes one archive to standard output."""

import errno
import os

from pgbackup.errors import PgbackupError
from pgbackup.pg.lsn import WalPosition
from pgbackup.stream.sink import End
from pgbackup.stream.writebehind import WriteBehind


class Output(End):
    """Write archive bytes to a descriptor, in order; the descriptor stays open.

    Raises: BrokenPipeError when the reader has gone, PgbackupError.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._behind = WriteBehind()
        self.size = 0

    @property
    def buffer(self) -> memoryview:
        return self._behind.buffer

    def archive_contents(self, length: int) -> None:
        self._behind.add(length, self._write)

    def end_archive(self) -> None:
        self._behind.end(self._write, lambda: None)

    def flush(self) -> None:
        self._behind.flush(self._write)

    def end_backup(self, stop: WalPosition) -> None:
        self._behind.wait()

    def cleanup(self) -> None:
        self._behind.close()

    def _write(self, data: memoryview) -> None:
        done = 0
        while done < len(data):
            try:
                done += os.write(self._descriptor, data[done:])
            except BrokenPipeError:
                raise
            except OSError as error:
                reason = os.strerror(error.errno or errno.EIO).lower()
                raise PgbackupError(f"could not write to standard output: {reason}") from error
        self.size += done
