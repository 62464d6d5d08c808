"""Slots of our own walsender: as a server's, and whole after any death."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import pq

from pgbackup.errors import ClientError, Locked, NotFound, PgbackupError
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.repo.slots import Slot, held_positions, read_slot, read_slots
from pgbackup.serve import slots as slots_module
from pgbackup.serve.slots import STORE_INTERVAL, Slots, drop_unused
from pgbackup.storage.api import Storage
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage
from tests.cli.program import ROOT, environment
from tests.fix_cluster import ClusterFactory
from tests.repo.retention.expiring import make_cluster
from tests.repo.samples import MIB, SYSTEM
from tests.serve.slotting import PID, REPORTS


def at(megabytes: int, timeline: int = 1) -> WalPosition:
    return WalPosition(Timeline(timeline), Lsn(megabytes * MIB))


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path / "repo") if request.param == "local" else MemoryStorage()


@pytest.fixture
def cluster(storage: Storage) -> ClusterRepository:
    return make_cluster(storage)


def refusal(act: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        act()
    return caught.value.sqlstate, caught.value.message


def test_every_connection_sees_a_slot(cluster: ClusterRepository) -> None:
    mine, theirs = Slots(cluster, 1), Slots(cluster, 2)
    mine.create("a")
    mine.create("b", reserve=at(7))
    assert theirs.read("a") == Slot("a", False, None)
    assert theirs.read("b") == Slot("b", False, at(7))
    assert theirs.read("none") is None
    assert theirs.read("../b") is None
    assert held_positions(cluster) == {"b": at(7)}


def test_a_slot_is_used_by_one_at_a_time(cluster: ClusterRepository) -> None:
    mine, theirs = Slots(cluster, 11), Slots(cluster, 22)
    mine.create("a")
    active = ("55006", 'replication slot "a" is active for PID 11')
    with mine.acquire("a"):
        assert read_slots(cluster) == [(Slot("a", False, None), 11)]
        assert refusal(lambda: theirs.acquire("a")) == active
        assert refusal(lambda: theirs.drop("a")) == active
        with pytest.raises(Locked, match="active for PID 11"):
            drop_unused(cluster, "a", 3)
    theirs.acquire("a").release()
    drop_unused(cluster, "a", 3)
    with pytest.raises(NotFound):
        drop_unused(cluster, "a", 3)


@pytest.mark.parametrize("command", ["drop", "alter"])
def test_who_waits_goes_on_when_a_slot_is_free(cluster: ClusterRepository, command: str) -> None:
    mine, theirs = Slots(cluster, 1), Slots(cluster, 2)
    mine.create("a")
    held = mine.acquire("a")
    turns = iter([lambda: None, lambda: None, held.release])
    if command == "drop":
        theirs.drop("a", wait=lambda seconds: next(turns)())
        assert mine.read("a") is None
    else:
        refused = refusal(lambda: theirs.alter("a", lambda seconds: next(turns)()))
        assert refused[0] == "0A000"
        assert mine.read("a") is not None
    assert list(turns) == []


def test_a_temporary_slot_belongs_to_its_connection(cluster: ClusterRepository) -> None:
    mine, theirs = Slots(cluster, 1), Slots(cluster, 2)
    mine.create("a", is_temporary=True, reserve=at(3))
    assert refusal(lambda: theirs.acquire("a"))[0] == "55006"
    assert refusal(lambda: theirs.create("a"))[0] == "42710"
    with mine.acquire("a") as held:
        held.confirm(at(5))
    assert refusal(lambda: theirs.drop("a"))[0] == "55006"
    assert mine.read("a") == Slot("a", True, at(5))
    mine.create("b", is_temporary=True)
    mine.drop("b")
    mine.create("kept")
    mine.drop_temporary()
    assert read_slots(cluster) == [(Slot("kept", False, None), None)]
    theirs.create("a")


def test_progress_is_stored_now_and_then_and_a_step_back_at_once(
    cluster: ClusterRepository,
) -> None:
    now = [0.0]
    slots = Slots(cluster, 1, clock=lambda: now[0])
    slots.create("a")

    def stored() -> WalPosition | None:
        found = read_slot(cluster, "a")
        return None if found is None else found.restart

    with slots.acquire("a") as held:
        held.confirm(WalPosition(Timeline(1), Lsn(0)))
        assert stored() is None
        held.confirm(at(3))
        assert stored() == at(3)
        held.confirm(at(4))
        assert stored() == at(3)
        now[0] += STORE_INTERVAL
        held.confirm(at(5))
        assert stored() == at(5)
        held.confirm(at(2))
        assert stored() == at(2)
        held.confirm(at(6, timeline=2))
        held.confirm(at(7, timeline=1))
        assert stored() == at(2)
        assert held.slot.restart == at(7)
    assert stored() == at(7)


def test_there_is_an_end_to_slots(
    cluster: ClusterRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "MAX_SLOTS", 2)
    slots = Slots(cluster, 1)
    slots.create("a")
    slots.create("b", is_temporary=True)
    assert refusal(lambda: slots.create("c")) == ("53400", "all replication slots are in use")
    assert refusal(lambda: slots.create("a"))[0] == "42710"
    slots.drop_temporary()
    slots.create("c")


NAMES = ["a", "", "A", "ä", "a-b", "a b", "../a", "0", "_", "a.b", "a$"]


@pytest.mark.parametrize("major", [13, 18])
def test_a_server_refuses_in_the_same_words(cluster_factory: ClusterFactory, major: int) -> None:
    server = cluster_factory(major)
    connection = pq.PGconn.connect(server.conninfo("x", replication="true").encode())
    slots = Slots(Repository.open(MemoryStorage(), create=True).cluster(SYSTEM), 1)

    def theirs(text: str) -> tuple[str, ...] | None:
        result = connection.exec_(text.encode())
        fields = pq.DiagnosticField
        wanted = (fields.SQLSTATE, fields.MESSAGE_PRIMARY, fields.MESSAGE_HINT)
        words = tuple((result.error_field(field) or b"").decode() for field in wanted)
        return words if words[0] else None

    def ours(act: Callable[[], object]) -> tuple[str, ...] | None:
        try:
            act()
        except PgbackupError as error:
            return error.sqlstate, error.message, error.hint or ""
        return None

    for name in NAMES:
        expected = theirs(f'CREATE_REPLICATION_SLOT "{name}" PHYSICAL')
        assert ours(lambda name=name: slots.create(name)) == expected
        assert (expected is None) == (name in ("a", "0", "_"))
    for name in (*NAMES, *NAMES):
        expected = theirs(f'DROP_REPLICATION_SLOT "{name}"')
        assert ours(lambda name=name: slots.drop(name)) == expected
    slots.create("a")
    theirs("CREATE_REPLICATION_SLOT a PHYSICAL")
    assert ours(lambda: slots.create("a")) == theirs("CREATE_REPLICATION_SLOT a PHYSICAL")
    if major == 18:
        for name in ("a", "none"):
            expected = theirs(f"ALTER_REPLICATION_SLOT {name} (FAILOVER)")
            assert ours(lambda name=name: slots.alter(name, wait=bool)) == expected
    connection.finish()


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fsync", "rename", "unlink"])
def test_a_kill_leaves_slots_that_are_whole(tmp_path: Path, call: str) -> None:
    """Whatever was done before the death is there, and nobody's slot is in use."""
    number, killed = 0, 0
    while True:
        number += 1
        repo = tmp_path / f"{number}"
        cluster = make_cluster(LocalStorage(repo))
        child = subprocess.run(
            [sys.executable, "-m", "tests.serve.slotting", repo, call, str(number)],
            cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        done = child.stdout.split()
        check_after(cluster, done)
        if child.returncode == 0:
            break
        killed += 1
        after = Slots(cluster, PID + 1)
        after.create("short")
        if read_slot(cluster, "own") is None:
            after.create("own")
        after.acquire("own").release()
    assert killed >= 3
    assert done == ["created", *map(str, REPORTS), "dropped"]


def check_after(cluster: ClusterRepository, done: list[str]) -> None:
    found = read_slot(cluster, "own")
    is_last = done[-1:] == [str(REPORTS[-1])]
    if not done or "dropped" in done:
        assert found is None or not done
    elif found is None:
        assert is_last  # the death was in the middle of the drop
    else:
        reports = [None, *(at(each) for each in REPORTS)]
        assert found.restart in reports[len(done) - 1 : len(done) + 1]
    assert all(user is None for _, user in read_slots(cluster))
    assert "short" not in held_positions(cluster)
