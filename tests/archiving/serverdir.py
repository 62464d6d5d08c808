"""The data directory of a server that is not there: what the WAL hooks see of one."""

import os
import random
import time
from pathlib import Path

import pytest

from pgbackup.archiving import command
from pgbackup.pg.lsn import Segment, Timeline
from tests.backup.wal import PAGE, WalWriter

MIB = 1 << 20
DATA = Path(__file__).parents[1] / "pg" / "data"
MAJOR = 13
SYSTEM = 7711075377583810970
"""The cluster of pg_control_13, with segments of 1 MiB."""

OTHER_SYSTEM = SYSTEM + 1


def segment(number: int, timeline: int = 1, size: int = MIB) -> Segment:
    return Segment(Timeline(timeline), number, size)


def segment_data(
    which: Segment, seed: int = 0, system: int = SYSTEM, used: int | None = None
) -> bytes:
    """Content of a segment, compressible by half.

    used: bytes that are not zero; None is all.
    """
    source = random.Random(f"{which} {seed}")
    writer = WalWriter(which, system, MAJOR)
    end = which.size if used is None else used
    while writer.position < which.start + end:
        writer.add(source.randbytes(2000) + bytes(2000))
    data = next(iter(writer.segments().values()))
    whole = end // PAGE * PAGE
    return data[:whole] + bytes(which.size - whole)


class ServerDirectory:
    """A data directory, and a repository beside it."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = base / "data"
        self.wal = self.path / "pg_wal"
        self.status = self.wal / "archive_status"
        self.spool = self.wal / "pgbackup.spool"
        self.repo = base / "repo"
        self.system = self.repo / str(SYSTEM)
        self.archive = self.system / "wal"
        self.status.mkdir(parents=True)
        (self.path / "global").mkdir()
        (self.path / "PG_VERSION").write_text(f"{MAJOR}\n")
        control = (DATA / f"pg_control_{MAJOR}").read_bytes()
        (self.path / "global" / "pg_control").write_bytes(control.ljust(8192, b"\0"))
        monkeypatch.chdir(self.path)

    def write(self, name: str, data: bytes, *, ready: bool = True, age: float = 60) -> Path:
        """Put a file into pg_wal.

        age: seconds since its last change, as far as that can be set.
        """
        path = self.wal / name
        path.write_bytes(data)
        os.utime(path, (time.time() - age,) * 2)
        if ready:
            (self.status / f"{name}.ready").touch()
        return path

    def make(self, which: Segment, seed: int = 0) -> bytes:
        """Put a segment into pg_wal, ready to be archived; return its content."""
        data = segment_data(which, seed)
        self.write(which.name, data)
        return data

    def push(self, name: str, *options: object) -> int:
        """What the server does with a file that is ready."""
        status = command.run("wal-push", [*self._words(options), f"pg_wal/{name}"])
        if status == 0:
            ready = self.status / f"{name}.ready"
            if ready.exists():
                ready.rename(self.status / f"{name}.done")
        return status

    def get(self, name: str, *options: object, target: str = "pg_wal/RECOVERYXLOG") -> int:
        return command.run(
            "wal-get", ["--timeout", "0", "--no-prefetch", *self._words(options), name, target]
        )

    def words(self, verb: str, *rest: object) -> list[str]:
        """A command line for a process of its own."""
        return [verb, *self._words(rest)]

    def _words(self, options: tuple[object, ...]) -> list[str]:
        return ["-B", str(self.repo), *map(str, options)]

    @property
    def restored(self) -> Path:
        return self.wal / "RECOVERYXLOG"

    def leftovers(self) -> list[str]:
        """Hidden files beside the target and in the archive."""
        return [
            path.name
            for folder in (self.wal, self.archive)
            for path in folder.iterdir()
            if path.name.startswith(".")
        ]
