"""What servers of each major tell of a slot by SQL, and what no server should."""

from collections.abc import Iterator

import pytest

from pgbackup.errors import ProtocolViolation
from pgbackup.pg.lsn import Lsn
from pgbackup.replication.client import create_slot, drop_slot, identify_system
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.slotstate import (
    SlotState,
    WalStatus,
    advance_slot,
    read_slot_state,
)
from pgbackup.replication.transport import Ready
from tests.cluster import Cluster
from tests.replication.transcript import TranscriptTransport, row

MIB = 1 << 20


@pytest.fixture
def transport(server: Cluster) -> Iterator[LibpqTransport]:
    """A connection that understands SQL and replication commands."""
    transport = LibpqTransport()
    transport.connect(server.conninfo("postgres"), "pgbackup test", runs_sql=True)
    yield transport
    transport.disconnect()


def test_a_slot_is_read_and_advanced_by_sql(server: Cluster, transport: LibpqTransport) -> None:
    assert read_slot_state(transport, "own") is None
    create_slot(transport, "own")
    state = read_slot_state(transport, "own")
    assert state is not None
    assert (state.kind, state.is_active, state.restart, state.retained) == (
        "physical", False, None, 0,
    )  # fmt: skip
    drop_slot(transport, "own")
    create_slot(transport, "own", reserve_wal=True)
    server.sql("SELECT pg_switch_wal()")
    end = identify_system(transport).flushed.lsn
    state = read_slot_state(transport, "own")
    assert state is not None
    assert state.restart is not None
    assert state.status is WalStatus.RESERVED
    assert state.server_end >= end
    assert state.retained == state.server_end - state.restart > 0
    assert advance_slot(transport, "own", end) == end
    state = read_slot_state(transport, "own")
    assert state is not None
    assert state.restart == end
    far = Lsn(end + 1000 * MIB)
    assert advance_slot(transport, "own", far) < far, "never beyond what the server has"
    drop_slot(transport, "own")


def test_the_address_of_a_server_leads_to_it_again(
    server: Cluster, transport: LibpqTransport
) -> None:
    assert transport.address.host == str(server.run_directory)
    assert transport.address.port == str(server.port)


@pytest.mark.parametrize(
    ("status", "safe", "restart"),
    [("better", None, "0/1"), ("lost", "x", "0/1"), ("lost", "--1", None), ("lost", None, "1")],
)
def test_what_no_server_says_is_a_violation(
    status: str, safe: str | None, restart: str | None
) -> None:
    answer = row("physical", "f", restart, status, safe, "0/1")
    with pytest.raises(ProtocolViolation):
        read_slot_state(TranscriptTransport([answer, Ready()]), "own")


def test_a_lost_slot_retains_nothing() -> None:
    end = Lsn(10 * MIB)
    state = SlotState("own", "physical", False, Lsn(MIB), WalStatus.LOST, None, end)
    assert state.is_lost
    assert state.retained == 0
