"""An end of a chain that checks the calling order, and a source that keeps it.

CheckedSink refuses what the docstring of `Sink` does not allow and keeps what it was given.
`send` plays the part of a source. Both work with buffers and pieces of any size.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, cycle, repeat
from typing import NoReturn

from pgbackup.errors import StorageError
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.pg.tar import BLOCK_SIZE, TarHeader
from pgbackup.stream.sink import LARGEST_ROOM, BackupState, End, Sink, Tablespace

START = WalPosition(Timeline(1), Lsn(0x2000028))
STOP = WalPosition(Timeline(1), Lsn(0x2000100))

AFTER = {
    "new": {"begin_backup"},
    "backup": {"begin_archive", "begin_manifest", "end_backup"},
    "archive": {"archive_contents", "end_archive"},
    "manifest": {"manifest_contents", "end_manifest"},
    "manifest done": {"end_backup"},
    "done": set[str](),
}
"""Which calls each state allows; cleanup is allowed once in all of them."""

LEADS_TO = {
    "begin_backup": "backup",
    "begin_archive": "archive",
    "archive_contents": "archive",
    "end_archive": "backup",
    "begin_manifest": "manifest",
    "manifest_contents": "manifest",
    "end_manifest": "manifest done",
    "end_backup": "done",
}


class CheckedSink(End):
    """Keeps archives and manifest, and asserts every rule of the chain.

    buffer_sizes: lengths of the buffers it lends, in turn. A buffer that was handed in is
                  released, so that a link or source that goes on using it fails.
    fail_at:      number of the call, from 0, that raises StorageError; cleanup is not counted.
    """

    def __init__(self, buffer_sizes: Iterable[int] = (8192,), fail_at: int | None = None) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.archives: dict[str, bytes] = {}
        self.manifest: bytes | None = None
        self.stop: WalPosition | None = None
        self.is_clean = False
        self._phase = "new"
        self._name = ""
        self._parts: list[bytes] = []
        self._fail_at = fail_at
        self._sizes = cycle(buffer_sizes)
        self._lend()

    @property
    def is_complete(self) -> bool:
        """Whether a whole backup has arrived."""
        return self._phase == "done"

    @property
    def buffer(self) -> memoryview:
        return self._buffer

    def begin_backup(self, state: BackupState) -> None:
        self._called("begin_backup")
        assert state.tablespaces, "a state without tablespaces was handed on"
        super().begin_backup(state)

    def begin_archive(self, name: str) -> None:
        self._called("begin_archive")
        assert ".tar" in name
        assert name not in self.archives
        self._name = name

    def archive_contents(self, length: int) -> None:
        self._called("archive_contents")
        self._take(length)

    def end_archive(self) -> None:
        self._called("end_archive")
        self.archives[self._name] = self._taken()

    def flush(self) -> None:
        assert not self.is_clean
        assert self._phase == "archive"
        self._buffer = memoryview(bytearray(LARGEST_ROOM))

    def begin_manifest(self) -> None:
        self._called("begin_manifest")

    def manifest_contents(self, length: int) -> None:
        self._called("manifest_contents")
        self._take(length)

    def end_manifest(self) -> None:
        self._called("end_manifest")
        self.manifest = self._taken()

    def end_backup(self, stop: WalPosition) -> None:
        self._called("end_backup")
        self.stop = stop

    def cleanup(self) -> None:
        assert not self.is_clean, "cleaned up twice"
        self.is_clean = True

    def _called(self, call: str) -> None:
        assert not self.is_clean, f"{call} after cleanup"
        assert call in AFTER[self._phase], f"{call} in phase {self._phase!r}"
        self._phase = LEADS_TO[call]
        self.calls.append(call)
        if self._fail_at == len(self.calls) - 1:
            self._fail()

    def _fail(self) -> NoReturn:
        raise StorageError('could not write object "x": no space left on device')

    def _take(self, length: int) -> None:
        assert 0 < length <= len(self._buffer)
        self._parts.append(bytes(self._buffer[:length]))
        self._buffer[:] = b"\xee" * len(self._buffer)
        self._buffer.release()
        self._lend()

    def _taken(self) -> bytes:
        whole = b"".join(self._parts)
        self._parts = []
        return whole

    def _lend(self) -> None:
        self._buffer = memoryview(bytearray(next(self._sizes)))


def backup_state(*oids: int) -> BackupState:
    """The state of a backup with these tablespaces and the main data directory."""
    tablespaces = [Tablespace(oid, f"/ts/{oid}", None) for oid in oids]
    return BackupState(START, (*tablespaces, Tablespace(None, "", None)))


def send(
    sink: Sink,
    archives: dict[str, bytes],
    manifest: bytes | None = None,
    *,
    pieces: Iterable[int] = (1 << 30,),
    is_deferred: bool = False,
) -> None:
    """Be a source: send a whole backup, and clean up whatever happens.

    pieces:      how many bytes to hand over at a time, in turn; never more than the buffer holds.
    is_deferred: the contents of the members are written later.
    """
    lengths = chain(pieces, repeat(1 << 30)) if isinstance(pieces, Iterator) else cycle(pieces)
    try:
        sink.begin_backup(backup_state(*range(16384, 16383 + len(archives))))
        for name, content in archives.items():
            sink.begin_archive(name)
            if is_deferred:
                _defer(sink, content, lengths)
            else:
                for length in fill(sink, content, lengths):
                    sink.archive_contents(length)
            sink.end_archive()
        if manifest is not None:
            sink.begin_manifest()
            for length in fill(sink, manifest, lengths):
                sink.manifest_contents(length)
            sink.end_manifest()
        sink.end_backup(STOP)
    finally:
        sink.cleanup()


def fill(sink: Sink, content: bytes, lengths: Iterator[int]) -> Iterator[int]:
    """Write content into the sink's buffers; yield how much the caller has to announce."""
    offset = 0
    while offset < len(content):
        buffer = sink.buffer
        length = min(next(lengths), len(buffer), len(content) - offset)
        buffer[:length] = content[offset : offset + length]
        yield length
        offset += length


def _defer(sink: Sink, content: bytes, lengths: Iterator[int]) -> None:
    """Send a tar archive, all contents of its members deferred."""
    start = 0
    while start < len(content):
        header = TarHeader.parse(content[start : start + BLOCK_SIZE])
        if len(sink.buffer) < BLOCK_SIZE:
            sink.flush()
        for length in fill(sink, content[start : start + BLOCK_SIZE], lengths):
            sink.archive_contents(length)
        start += BLOCK_SIZE
        end = start + (0 if header is None else header.size)
        while start < end:
            length = min(next(lengths), len(sink.buffer), end - start)
            sink.archive_later(length, partial(_copy, content[start : start + length]))
            start += length
        padding = -start % BLOCK_SIZE
        for length in fill(sink, bytes(padding), lengths):
            sink.archive_contents(length)
        start += padding


def _copy(content: bytes, memory: memoryview) -> None:
    assert len(memory) == len(content)
    memory[:] = content
