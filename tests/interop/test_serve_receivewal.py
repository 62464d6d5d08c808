"""Stock pg_receivewal copies the WAL of a repository that is served, across a timeline switch.

PGBACKUP_CLONE_FORMS=all has every client copy from all servers that it accepts.
"""

import os
from pathlib import Path

import pytest

from pgbackup.pg.lsn import Lsn
from tests.binaries import CLIENT_MAJORS, server_majors
from tests.fix_cluster import ClusterFactory
from tests.interop.serving import Serving
from tests.interop.twotimelines import MIB, NEW, OLD, TwoTimelines, make_two_timelines

pytestmark = pytest.mark.interop
IS_LONG = os.environ.get("PGBACKUP_CLONE_FORMS") == "all"


class Copy:
    """A directory that pg_receivewal fills."""

    def __init__(self, made: TwoTimelines, serving: Serving, client: int, target: Path) -> None:
        self.made = made
        self.serving = serving
        self.client = client
        self.target = target
        target.mkdir()

    def begin_at_first(self) -> None:
        """Have it start where the archive does, although it has got nothing yet."""
        (self.target / f"{self.made.old[0].name}.partial").write_bytes(bytes(MIB))

    def receive(self, end: Lsn, *words: object) -> None:
        """Get WAL to beyond a position."""
        line = ("-D", self.target, "-n", "--endpos", end, *words)
        self.serving.succeed("pg_receivewal", *line, major=self.client)

    def check(self) -> None:
        """Compare every file, and see that there is no other."""
        files = {each.name: each.read_bytes() for each in self.target.iterdir()}
        switched = self.made.new[0]
        rest = files.pop(f"{OLD:08X}{switched.name[8:]}.partial")
        length = self.made.switch - switched.start
        assert rest == self.made.read(switched)[:length].ljust(MIB, b"\0")
        assert files.pop(NEW.history_name) == self.made.history
        files.pop(f"{self.made.new[-1].next().name}.partial", None)  # what came with the last
        segments = [*self.made.old, *self.made.new]
        assert sorted(files) == [each.name for each in segments]
        for each in segments:
            assert files[each.name] == self.made.read(each), each.name


def from_a_slot_that_holds_all(copy: Copy) -> None:
    """It begins at the slot's position, on the slot's timeline."""
    copy.serving.command("CREATE_REPLICATION_SLOT held PHYSICAL RESERVE_WAL")
    copy.receive(Lsn(copy.made.end - 1), "-S", "held", "--synchronous")
    copy.serving.succeed("pg_receivewal", "--drop-slot", "-S", "held", major=copy.client)


def in_two_runs_with_a_slot_of_its_own(copy: Copy) -> None:
    """It stops within a segment of the old timeline, and goes on."""
    copy.begin_at_first()
    create = ("--create-slot", "-S", "own", "--if-not-exists")
    copy.serving.succeed("pg_receivewal", *create, major=copy.client)
    copy.serving.succeed("pg_receivewal", *create, major=copy.client)
    half = Lsn(copy.made.old[1].start + MIB // 2)
    copy.receive(half, "-S", "own")
    unfinished = (copy.target / f"{copy.made.old[1].name}.partial").read_bytes()
    assert unfinished[: MIB // 2] == copy.made.read(copy.made.old[1])[: MIB // 2]
    assert not (copy.target / copy.made.old[2].name).exists()
    copy.receive(Lsn(copy.made.end - 1), "-S", "own")
    copy.serving.succeed("pg_receivewal", "--drop-slot", "-S", "own", major=copy.client)


def without_a_slot(copy: Copy) -> None:
    copy.begin_at_first()
    copy.receive(Lsn(copy.made.end - 1), "--no-sync")


WAYS = (from_a_slot_that_holds_all, in_two_runs_with_a_slot_of_its_own, without_a_slot)


@pytest.mark.parametrize("major", server_majors() if IS_LONG else CLIENT_MAJORS)
def test_the_copy_is_that_of_the_archive(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    made = make_two_timelines(cluster_factory, major, tmp_path)
    assert len(made.old) > 2
    assert len(made.new) > 2
    with Serving(tmp_path, made.repo, major) as serving:
        for client in CLIENT_MAJORS:
            if client < major or (client > major and not IS_LONG):
                continue
            for number, way in enumerate(WAYS):
                if way is from_a_slot_that_holds_all and major < 15:
                    continue  # clients do not ask such servers where a slot is
                copy = Copy(made, serving, client, tmp_path / f"copy-{client}-{number}")
                try:
                    way(copy)
                    copy.check()
                except Exception as error:
                    error.add_note(f"pg_receivewal {client}, {way.__name__}")
                    raise
