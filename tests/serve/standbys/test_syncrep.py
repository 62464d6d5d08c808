"""Who is a synchronous standby, and what enough of them have: by hand, and beside real servers."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pgbackup.pg.lsn import Lsn
from pgbackup.replication.client import identify_system
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import CopyBegin
from pgbackup.serve.standbys.standbynames import StandbyNames, parse_standby_names
from pgbackup.serve.standbys.syncrep import (
    Acknowledged,
    Standby,
    candidates,
    sync_states,
    synchronous_position,
)
from pgbackup.wire.commands import StartPhysicalReplication
from pgbackup.wire.messages import standby_status
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

APPLICATIONS = ["a", "b", "B", "silent", "5", "x y"]
"""In the order of their slots; the one called silent never says what it has flushed."""

SETTINGS = [
    "a", "b", "*", "b, a", "a, silent, b", "silent", "silent, *", "2 (a, b, *)", "2 (b, a)",
    "FIRST 3 (*)", "FIRST 9 (a, b)", "FIRST 2 (b)", "ANY 1 (a)", "ANY 2 (a, b, silent)",
    "ANY 9 (*)", "any 1 (none)", "5", '1 (5, "x y")', '"X Y", *', "none", 'FIRST 1 (B, "*")', "",
]  # fmt: skip


def parsed(text: str) -> StandbyNames:
    names = parse_standby_names(text)
    assert names is not None
    return names


def standby(priority: int, *lsns: int, streaming: bool = True) -> Standby:
    return Standby(priority, streaming, Acknowledged(*map(Lsn, lsns)))


@pytest.mark.parametrize(
    ("setting", "standbys", "expected"),
    [
        ("a", [standby(1, 30, 20, 10)], (30, 20, 10)),
        ("2 (a, b, c)", [standby(3, 9, 9, 9), standby(1, 7, 5, 3), standby(2, 6, 6, 0)], (6, 5, 0)),
        ("a, b", [standby(2, 9, 9, 9), standby(1, 7, 5, 3)], (7, 5, 3)),
        ("2 (a, b)", [standby(1, 7, 5, 3)], None),
        ("2 (*)", [standby(1, 7, 5, 3), standby(1, 9, 8, 0), standby(1, 1, 1, 1)], (7, 5, 0)),
        ("ANY 1 (*)", [standby(1, 7, 5, 3), standby(1, 6, 6, 0)], (7, 6, 3)),
        ("ANY 2 (*)", [standby(1, 7, 5, 3), standby(1, 6, 6, 0), standby(1, 1, 1, 1)], (6, 5, 1)),
        ("ANY 3 (*)", [standby(1, 7, 5, 3), standby(1, 6, 6, 0)], None),
        ("a", [standby(1, 7, 0, 0)], None),
        ("a", [standby(0, 7, 7, 7)], None),
        ("a", [standby(1, 7, 7, 7, streaming=False)], None),
        ("a, b", [standby(1, 7, 0, 0), standby(2, 4, 4, 4)], (4, 4, 4)),
    ],
)
def test_enough_standbys_have_a_position_together(
    setting: str, standbys: list[Standby], expected: tuple[int, ...] | None
) -> None:
    assert synchronous_position(parsed(setting), standbys) == expected


def test_of_equal_priorities_the_first_standbys_are_chosen() -> None:
    standbys = [standby(2, 9, 9, 9), standby(1, 1, 1, 1), standby(1, 2, 2, 2)]
    assert candidates(parsed("1 (a, b)"), standbys) == [1]
    assert candidates(parsed("2 (a, b)"), standbys) == [1, 2]


@pytest.fixture
def streaming(cluster_factory: ClusterFactory, major: int) -> Iterator[Cluster]:
    """A server to which APPLICATIONS are connected; all have the WAL up to the same position."""
    server = cluster_factory(major)
    with ExitStack() as stack:
        for name in APPLICATIONS:
            transport = LibpqTransport()
            transport.connect(server.conninfo(application_name=name), name)
            stack.callback(transport.disconnect)
            end = identify_system(transport).flushed
            transport.send(StartPhysicalReplication(end.lsn, end.timeline))
            assert isinstance(transport.receive(30), CopyBegin)
            flushed = Lsn(0) if name == "silent" else end.lsn
            transport.send(standby_status(end.lsn, flushed, Lsn(0)))
            server.poll_until(
                "SELECT state = 'streaming' AND write_lsn IS NOT NULL FROM pg_stat_replication"
                f" WHERE application_name = '{name}'"
            )
        yield server


def test_servers_show_the_same_states(streaming: Cluster) -> None:
    column = "array_agg(sync_state || ' ' || sync_priority ORDER BY backend_start)"
    for setting in SETTINGS:
        streaming.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{setting}'")
        streaming.sql("SELECT pg_reload_conf()")
        names = parse_standby_names(setting)
        standbys = [
            standby(names.priority(each) if names else 0, 9, 0 if each == "silent" else 9, 0)
            for each in APPLICATIONS
        ]
        ours = [f"{state.value} {priority}" for state, priority in sync_states(names, standbys)]
        streaming.poll_until(f"SELECT {column} FROM pg_stat_replication", ours)
