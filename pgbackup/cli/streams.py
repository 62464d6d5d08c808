"""The standard streams, such that nothing the program says can break it.

The answer of a command is on standard output: if it cannot be written, that is an error like any
other, told once. Messages are for whoever listens: if nobody does, the work goes on.
"""

import errno
import io
import os
import sys
from typing import TextIO

from pgbackup.errors import PgbackupError

_UTF8 = "utf8"


class _Answers(io.FileIO):
    """Standard output. After its first error it takes everything and keeps nothing."""

    _is_lost = False

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Raises: PgbackupError, BrokenPipeError when the reader has gone."""
        if self._is_lost:
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError:
            self._is_lost = True
            raise
        except OSError as error:
            self._is_lost = True
            reason = os.strerror(error.errno or errno.EIO).lower()
            raise PgbackupError(f"could not write to standard output: {reason}") from error


class _Messages(io.FileIO):
    """Standard error."""

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare_streams() -> None:
    """Take the place of Python's own, with their encoding; what that lacks is written as \\x41."""
    sys.stdout = _text(_Answers(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr, is_by_line=True)
    if sys.stdin is None:  # it was closed, and __main__ has put something in its place
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - a descriptor, for good


def is_utf8(stream: TextIO) -> bool:
    """Whether a stream can show every character."""
    return (stream.encoding or "").lower().replace("-", "") == _UTF8


def _text(raw: io.FileIO, before: TextIO | None, *, is_by_line: bool = False) -> TextIO:
    """before: None if it was closed when the program began."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=_UTF8 if before is None else before.encoding,
        errors="backslashreplace",
        line_buffering=is_by_line or raw.isatty(),
    )
